#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "backend/cuda/stream.h"

// Host memory that the device copies from and to by itself, since other memory makes the host wait.
namespace moesaic::cuda {

class PinnedBlock {
 public:
  explicit PinnedBlock(std::size_t bytes);
  PinnedBlock(const PinnedBlock&) = delete;
  PinnedBlock& operator=(const PinnedBlock&) = delete;
  ~PinnedBlock();
  std::span<std::byte> bytes() const { return bytes_; }

 private:
  std::span<std::byte> bytes_;
};

/// Bytes on their way to the device: they are copied here, and from here later. The host waits only
/// where more is under way than fits.
class UploadRing {
 public:
  explicit UploadRing(std::size_t bytes) : memory_(bytes) {}
  /// Returns how often it has waited.
  int upload(std::span<const std::byte> host, std::byte* to, cudaStream_t stream);

 private:
  struct Piece {
    std::size_t begin, end;
    Event copied;
  };
  bool fits(std::size_t bytes);
  bool drop_copied();

  PinnedBlock memory_;
  std::deque<Piece> pieces_;  // under way, oldest first
  std::vector<Event> events_;
  std::size_t next_ = 0;
};

}  // namespace moesaic::cuda
