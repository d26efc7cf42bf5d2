#include "backend/cuda/staging.h"

#include <algorithm>
#include <cstring>

namespace moesaic::cuda {

PinnedBlock::PinnedBlock(std::size_t bytes) {
  void* place = nullptr;
  check(cudaHostAlloc(&place, bytes, cudaHostAllocDefault), "pinned host memory");
  bytes_ = {static_cast<std::byte*>(place), bytes};
}

PinnedBlock::~PinnedBlock() { cudaFreeHost(bytes_.data()); }

bool UploadRing::drop_copied() {
  if (pieces_.empty() || !pieces_.front().copied.passed()) {
    return false;
  }
  events_.push_back(std::move(pieces_.front().copied));
  pieces_.pop_front();
  return true;
}

// Whether so many bytes are free from next_ on, which may go back to the beginning.
bool UploadRing::fits(std::size_t bytes) {
  if (pieces_.empty()) {
    next_ = 0;
    return true;
  }
  const std::size_t oldest = pieces_.front().begin;
  const bool wrapped = pieces_.back().begin < oldest;
  if (wrapped) {
    return next_ + bytes <= oldest;
  }
  if (next_ + bytes <= memory_.bytes().size()) {
    return true;
  }
  if (bytes <= oldest) {
    next_ = 0;
    return true;
  }
  return false;
}

int UploadRing::upload(std::span<const std::byte> host, std::byte* to, cudaStream_t stream) {
  constexpr std::size_t kBorder = 64;
  // Halves, so that the host fills one while the device reads the other.
  const std::size_t most = std::max(kBorder, memory_.bytes().size() / 2 / kBorder * kBorder);
  int waits = 0;
  while (!host.empty()) {
    const std::size_t bytes = std::min(host.size(), most);
    const std::size_t room = (bytes + kBorder - 1) / kBorder * kBorder;
    while (drop_copied()) {
    }
    while (!fits(room)) {
      pieces_.front().copied.wait();
      ++waits;
      drop_copied();
    }
    std::byte* const place = memory_.bytes().data() + next_;
    std::memcpy(place, host.data(), bytes);
    check(cudaMemcpyAsync(to, place, bytes, cudaMemcpyHostToDevice, stream), "upload");
    if (events_.empty()) {
      events_.emplace_back();
    }
    pieces_.push_back({next_, next_ + room, std::move(events_.back())});
    events_.pop_back();
    pieces_.back().copied.record(stream);
    next_ += room;
    to += bytes;
    host = host.subspan(bytes);
  }
  return waits;
}

}  // namespace moesaic::cuda
