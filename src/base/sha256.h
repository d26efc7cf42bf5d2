#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

namespace moesaic {

/// SHA-256 of a stream of bytes; the one checksum of corpora and checkpoints.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;

  void update(std::span<const std::byte> bytes);
  std::string hex();  // ends the stream; 64 lower-case digits

  static std::string of(std::span<const std::byte> bytes);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace moesaic
