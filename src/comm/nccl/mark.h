#pragma once

#include <memory>
#include <type_traits>

#include "backend/cuda/error.h"

namespace moesaic::comm {

/// A place in the order of a stream: behind all that was queued there before.
class Mark {
 public:
  explicit Mark(cudaStream_t stream) {
    cudaEvent_t event = nullptr;
    cuda::check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "an event");
    event_.reset(event, [](cudaEvent_t old) { cudaEventDestroy(old); });
    cuda::check(cudaEventRecord(event, stream), "an event");
  }

  /// What is queued in the other stream from now on waits for it.
  void hold(cudaStream_t other) const {
    cuda::check(cudaStreamWaitEvent(other, event_.get(), 0), "a stream waits");
  }
  /// From any thread. An error counts: whoever waits for results throws it.
  bool reached() const { return cudaEventQuery(event_.get()) != cudaErrorNotReady; }

 private:
  std::shared_ptr<std::remove_pointer_t<cudaEvent_t>> event_;
};

}  // namespace moesaic::comm
