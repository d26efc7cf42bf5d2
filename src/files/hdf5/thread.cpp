#include "files/hdf5/thread.h"

#include <hdf5.h>

#include <condition_variable>
#include <deque>
#include <mutex>
#include <stop_token>
#include <thread>

#include "files/hdf5/async.h"

namespace moesaic::files {
namespace {

/// One thread and its queue. Starts on first use; at the process's end it finishes what was posted.
class Worker {
 public:
  Worker() : thread_([this](const std::stop_token& stop) { work_until(stop); }) {
    // HDF5's first call also calls MPI; waiting for it keeps those calls one at a time.
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return ready_; });
  }

  void post(std::function<void()> work) {
    {
      const std::lock_guard lock(mutex_);
      queue_.push_back(std::move(work));
    }
    changed_.notify_all();
  }

  std::thread::id id() const { return thread_.get_id(); }

 private:
  void work_until(const std::stop_token& stop) {
    H5open();
    H5Eset_auto(H5E_DEFAULT, nullptr, nullptr);
    std::unique_lock lock(mutex_);
    ready_ = true;
    changed_.notify_all();
    while (true) {
      changed_.wait(lock, stop, [this] { return !queue_.empty(); });
      if (queue_.empty()) {
        return;
      }
      const std::function<void()> work = std::move(queue_.front());
      queue_.pop_front();
      lock.unlock();
      work();
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::deque<std::function<void()>> queue_;
  bool ready_ = false;
  std::jthread thread_;  // last: it uses the members above
};

Worker& worker() {
  static Worker the_worker;
  return the_worker;
}

}  // namespace

void post_to_hdf5_thread(std::function<void()> work) { worker().post(std::move(work)); }

void run_on_hdf5_thread(const std::function<void()>& work) {
  if (on_hdf5_thread()) {
    work();
    return;
  }
  hdf5_async([&] { work(); }).get();
}

bool on_hdf5_thread() { return std::this_thread::get_id() == worker().id(); }

}  // namespace moesaic::files
