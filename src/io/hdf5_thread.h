#pragma once

#include <functional>
#include <future>
#include <memory>
#include <type_traits>
#include <utility>

namespace moesaic::io {

// Debian's HDF5 is not thread-safe, so one thread of the process makes every HDF5 call. Work is
// posted to it and runs in order; a prefetch is work posted early.

void post_to_hdf5_thread(std::function<void()> work);
bool on_hdf5_thread();

/// Runs work on the HDF5 thread without waiting; its result, or what it threw, is in the future.
template <class F>
std::future<std::invoke_result_t<F>> hdf5_async(F&& work) {
  using Result = std::invoke_result_t<F>;
  auto task = std::make_shared<std::packaged_task<Result()>>(std::forward<F>(work));
  std::future<Result> result = task->get_future();
  post_to_hdf5_thread([task] { (*task)(); });
  return result;
}

/// Runs work on the HDF5 thread and waits for it (at once if the caller is that thread).
template <class F>
std::invoke_result_t<F> hdf5_run(F&& work) {
  if (on_hdf5_thread()) {
    return work();
  }
  return hdf5_async(std::forward<F>(work)).get();
}

}  // namespace moesaic::io
