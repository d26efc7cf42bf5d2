#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>

namespace moesaic::text {

/// "gz", "zst" or "" for a file that is not packed, by its first bytes.
std::string packing_of(const std::filesystem::path& file);

/// The bytes of a file, unpacked where it is packed, a block at a time. Failures name the file:
/// kNoInput (unreadable), kIoError (read), kBadData (the packing is damaged or cut).
class TextStream {
 public:
  explicit TextStream(const std::filesystem::path& file);
  TextStream(TextStream&&) noexcept;
  TextStream& operator=(TextStream&&) noexcept;
  ~TextStream();

  /// Fills `block` from its start; returns the bytes read, 0 at the end.
  std::size_t read(std::span<char> block);
  /// Goes to a byte of a file that is not packed.
  void seek(std::int64_t offset);
  bool is_packed() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace moesaic::text
