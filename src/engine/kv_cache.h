#pragma once

#include <cstdint>
#include <list>
#include <map>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace moesaic::engine {

/// Which pages of the cache belong to which sequences. The full pages of a prompt are kept under
/// its tokens once they are computed, shared by prompts that begin with the same ones, and stay
/// after the last of them while nobody needs the memory; what was used longest ago goes first.
class KvCache {
 public:
  explicit KvCache(std::int64_t pages);

  /// The pages of one sequence, in its order; the first `known` tokens need not be computed.
  struct Lease {
    std::vector<std::int32_t> pages;
    std::int64_t known = 0;
  };
  static std::int64_t pages_for(std::int64_t tokens);

  /// A prompt's tokens, and its task, on which its rows depend, too, where a gate knows tasks.
  struct Text {
    std::span<const std::int32_t> tokens;
    std::uint8_t task = 0;
  };
  /// Pages for so many tokens, of which the prompt is the beginning; nothing if these are not free
  /// now. At least the prompt's last token is to be computed.
  std::optional<Lease> take(const Text& prompt, std::int64_t tokens);
  /// All of the prompt is computed: others of its task may share its full pages.
  void publish(const Text& prompt, const Lease& lease);
  void release(const Lease& lease);

  std::int64_t pages() const { return std::ssize(state_); }
  /// That no sequence has.
  std::int64_t free() const { return std::ssize(empty_) + std::ssize(idle_); }

 private:
  // A full page of a prompt: the one before it, by a number that is never used again, and its
  // tokens. What a task's first pages continue is -task.
  using Key = std::pair<std::int64_t, std::vector<std::int32_t>>;
  using Known = std::map<Key, std::int32_t>;  // to its page
  struct State {
    std::int64_t users = 0;
    std::int64_t number = 0;  // 0: it is not known
    Known::iterator known;
    std::list<std::int32_t>::iterator idle;  // if it is known and has no users
  };

  State& at(std::int32_t page) { return state_[static_cast<std::size_t>(page)]; }
  std::int32_t take_one();

  std::vector<State> state_;         // of each page
  std::vector<std::int32_t> empty_;  // pages without content
  std::list<std::int32_t> idle_;     // known pages without users; first: unused for longest
  Known known_;
  std::int64_t next_number_ = 1;
};

}  // namespace moesaic::engine
