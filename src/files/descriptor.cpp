#include "files/descriptor.h"

#include <unistd.h>

#include <cerrno>
#include <utility>

namespace moesaic::files {
namespace {

/// call(done) handles bytes from `done` on; 0 bytes end it.
template <class Call>
std::ptrdiff_t repeat(std::size_t bytes, Call&& call) {
  std::size_t done = 0;
  while (done < bytes) {
    const ssize_t count = call(done);
    if (count < 0 && errno == EINTR) {
      continue;
    }
    if (count < 0) {
      return -1;
    }
    if (count == 0) {
      break;
    }
    done += static_cast<std::size_t>(count);
  }
  return static_cast<std::ptrdiff_t>(done);
}

}  // namespace

Descriptor& Descriptor::operator=(Descriptor&& other) noexcept {
  if (this != &other) {
    close();
    number_ = other.release();
  }
  return *this;
}

int Descriptor::release() { return std::exchange(number_, -1); }

int Descriptor::close() {
  const int number = release();
  return number < 0 ? 0 : ::close(number);
}

std::ptrdiff_t read_some(const Descriptor& descriptor, std::span<char> block) {
  return repeat(block.size(), [&](std::size_t done) {
    return ::read(descriptor.number(), block.data() + done, block.size() - done);
  });
}

std::ptrdiff_t read_some_at(const Descriptor& descriptor, std::ptrdiff_t at,
                            std::span<std::byte> block) {
  return repeat(block.size(), [&](std::size_t done) {
    return ::pread(descriptor.number(), block.data() + done, block.size() - done,
                   at + static_cast<std::ptrdiff_t>(done));
  });
}

std::ptrdiff_t write_all(const Descriptor& descriptor, std::span<const std::byte> bytes) {
  return repeat(bytes.size(), [&](std::size_t done) {
    return ::write(descriptor.number(), bytes.data() + done, bytes.size() - done);
  });
}

std::ptrdiff_t write_all_at(const Descriptor& descriptor, std::ptrdiff_t at,
                            std::span<const std::byte> bytes) {
  return repeat(bytes.size(), [&](std::size_t done) {
    return ::pwrite(descriptor.number(), bytes.data() + done, bytes.size() - done,
                    at + static_cast<std::ptrdiff_t>(done));
  });
}

}  // namespace moesaic::files
