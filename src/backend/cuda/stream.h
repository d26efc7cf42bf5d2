#pragma once

#include <cuda_runtime.h>

#include <utility>

#include "backend/cuda/error.h"

namespace moesaic::cuda {

/// A stream of its own, which waits for no other one.
class Stream {
 public:
  Stream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "a stream"); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream() { cudaStreamDestroy(stream_); }
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

/// A place in a stream, to wait for.
class Event {
 public:
  Event() { check(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "an event"); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  Event(Event&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}
  Event& operator=(Event&& other) noexcept {
    std::swap(event_, other.event_);
    return *this;
  }
  ~Event() {
    if (event_ != nullptr) {
      cudaEventDestroy(event_);
    }
  }

  void record(cudaStream_t stream) const { check(cudaEventRecord(event_, stream), "an event"); }
  bool passed() const {
    const cudaError_t result = cudaEventQuery(event_);
    if (result == cudaErrorNotReady) {
      return false;
    }
    check(result, "the work before an event");
    return true;
  }
  void wait() const { check(cudaEventSynchronize(event_), "the work before an event"); }

 private:
  cudaEvent_t event_ = nullptr;
};

}  // namespace moesaic::cuda
