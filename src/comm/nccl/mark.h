#pragma once

#include <memory>
#include <type_traits>

#include "comm/nccl/calls.h"

namespace moesaic::comm {

/// A place in the order of a stream: behind all that was queued there before.
class Mark {
 public:
  explicit Mark(cudaStream_t stream) {
    cudaEvent_t event = nullptr;
    checked(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreateWithFlags");
    event_.reset(event, [](cudaEvent_t old) { cudaEventDestroy(old); });
    checked(cudaEventRecord(event, stream), "cudaEventRecord");
  }

  /// What is queued in the other stream from now on waits for it.
  void hold(cudaStream_t other) const {
    checked(cudaStreamWaitEvent(other, event_.get(), 0), "cudaStreamWaitEvent");
  }
  /// From any thread. An error counts: whoever waits for results throws it.
  bool reached() const { return cudaEventQuery(event_.get()) != cudaErrorNotReady; }

 private:
  std::shared_ptr<std::remove_pointer_t<cudaEvent_t>> event_;
};

/// A stream of its own, beside the one that computes.
class SideStream {
 public:
  SideStream() {
    checked(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking),
            "cudaStreamCreateWithFlags");
  }
  ~SideStream() { cudaStreamDestroy(stream_); }
  SideStream(const SideStream&) = delete;
  SideStream& operator=(const SideStream&) = delete;

  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

}  // namespace moesaic::comm
