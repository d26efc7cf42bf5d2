#pragma once

#include <functional>
#include <optional>
#include <type_traits>
#include <utility>

namespace moesaic::files {

// Debian's HDF5 is not thread-safe, so one thread of the process makes every HDF5 call. Work is
// posted to it and runs in order; a prefetch is work posted early (files/hdf5/async.h).

void post_to_hdf5_thread(std::function<void()> work);
bool on_hdf5_thread();
/// Returns when the work is done (at once if the caller is that thread); throws what it threw.
void run_on_hdf5_thread(const std::function<void()>& work);

/// The same for work with a result.
template <class F>
std::invoke_result_t<F> hdf5_run(F&& work) {
  using Result = std::invoke_result_t<F>;
  if constexpr (std::is_void_v<Result>) {
    run_on_hdf5_thread(std::ref(work));
  } else {
    std::optional<Result> result;
    run_on_hdf5_thread([&] { result.emplace(work()); });
    return std::move(*result);
  }
}

}  // namespace moesaic::files
