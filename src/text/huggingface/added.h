#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer_table.h"

namespace moesaic::text {

/// A token that is looked for in the text before a model sees it.
struct AddedToken {
  std::int32_t id = -1;
  std::string content;
  bool special = false;      // left out when tokens are decoded
  bool single_word = false;  // only between characters that are no parts of words
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // and behind it
  bool normalized = false;   // looked for in the normalised text
};

/// Cuts text at added tokens: the leftmost first, of those that begin together the longest.
class AddedTokens {
 public:
  AddedTokens() = default;
  explicit AddedTokens(std::vector<AddedToken> tokens);

  /// part(text, id) for each token (its id) and each stretch between tokens (-1), in order. An
  /// empty text has no part.
  template <class Part>
  void split(std::string_view text, Part&& part) const {
    std::size_t done = 0;
    Hit hit;
    for (std::size_t from = 0; next(text, from, done, hit); from = hit.match_end) {
      if (hit.token == nullptr) {
        continue;
      }
      if (done < hit.begin) {
        part(text.substr(done, hit.begin - done), -1);
      }
      part(text.substr(hit.begin, hit.end - hit.begin), hit.token->id);
      done = hit.end;
    }
    if (done < text.size()) {
      part(text.substr(done), -1);
    }
  }

 private:
  struct Hit {
    const AddedToken* token = nullptr;  // none: found, but not a word of its own
    std::size_t begin = 0, end = 0;     // with the white space that it takes
    std::size_t match_end = 0;
  };
  bool next(std::string_view text, std::size_t from, std::size_t done, Hit& hit) const;

  std::vector<AddedToken> tokens_;
  Trie trie_;                       // content -> index
  std::array<bool, 256> begins_{};  // some token begins with this byte
};

}  // namespace moesaic::text
