#pragma once

#include <cstddef>
#include <span>

namespace moesaic::files {

/// A file descriptor that is closed with its owner.
class Descriptor {
 public:
  explicit Descriptor(int number = -1) : number_(number) {}
  Descriptor(Descriptor&& other) noexcept : number_(other.release()) {}
  Descriptor& operator=(Descriptor&& other) noexcept;
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() { close(); }

  int number() const { return number_; }
  bool valid() const { return number_ >= 0; }
  int release();
  int close();  // 0, or -1 with errno

 private:
  int number_;
};

// They go on after a signal (EINTR), and after less than was asked for. Negative, and errno, if a
// call failed; what was read or written until then is lost.

/// Reads at the descriptor's place until the block is full or the file ends: bytes read.
std::ptrdiff_t read_some(const Descriptor& descriptor, std::span<char> block);
/// The same from byte `at` of the file on.
std::ptrdiff_t read_some_at(const Descriptor& descriptor, std::ptrdiff_t at,
                            std::span<std::byte> block);
/// Writes all bytes at the descriptor's place, or at byte `at` of the file.
std::ptrdiff_t write_all(const Descriptor& descriptor, std::span<const std::byte> bytes);
std::ptrdiff_t write_all_at(const Descriptor& descriptor, std::ptrdiff_t at,
                            std::span<const std::byte> bytes);

}  // namespace moesaic::files
