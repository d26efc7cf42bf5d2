#pragma once

#include <future>
#include <utility>

#include "files/hdf5/async.h"

namespace moesaic::data {

/// What is read next: made on the HDF5 thread while its owner computes. The work may refer to the
/// owner; declare this as its last member, as it waits for the work before it dies.
template <class T>
class Prefetch {
 public:
  Prefetch() = default;
  ~Prefetch() {
    if (next_.valid()) {
      next_.wait();
    }
  }
  Prefetch(const Prefetch&) = delete;
  Prefetch& operator=(const Prefetch&) = delete;

  /// work() returns a T.
  template <class Work>
  void start(Work&& work) {
    next_ = files::hdf5_async(std::forward<Work>(work));
  }
  /// Whether something was started that get() has not taken.
  bool has_next() const { return next_.valid(); }
  /// Waits for it. Throws what the work threw.
  T get() { return next_.get(); }

 private:
  std::future<T> next_;
};

}  // namespace moesaic::data
