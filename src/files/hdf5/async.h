#pragma once

#include <future>
#include <memory>
#include <type_traits>
#include <utility>

#include "files/hdf5/thread.h"

namespace moesaic::files {

/// Runs work on the HDF5 thread without waiting; its result, or what it threw, is in the future.
template <class F>
std::future<std::invoke_result_t<F>> hdf5_async(F&& work) {
  using Result = std::invoke_result_t<F>;
  auto task = std::make_shared<std::packaged_task<Result()>>(std::forward<F>(work));
  std::future<Result> result = task->get_future();
  post_to_hdf5_thread([task] { (*task)(); });
  return result;
}

}  // namespace moesaic::files
