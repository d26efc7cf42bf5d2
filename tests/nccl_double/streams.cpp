#include "nccl_double/streams.h"

#include <condition_variable>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

namespace {

// Set once; waited for by streams.
class Latch {
 public:
  void set() {
    {
      const std::lock_guard lock(mutex_);
      set_ = true;
    }
    changed_.notify_all();
  }
  void wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return set_; });
  }
  bool is_set() {
    const std::lock_guard lock(mutex_);
    return set_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool set_ = false;
};

int next_stream() {
  static int last = 0;
  return ++last;
}

std::int64_t next_event() {
  static std::int64_t last = 0;
  return ++last;
}

}  // namespace

struct CUevent_st {
  std::shared_ptr<Latch> latch;  // of the last record
  std::int64_t number = 0;
};

struct CUstream_st {
  explicit CUstream_st(bool with_thread) : number(with_thread ? next_stream() : 0) {
    if (with_thread) {
      thread = std::thread([this] { run(); });
    }
  }
  ~CUstream_st() {
    if (thread.joinable()) {
      push({});
      thread.join();
    }
  }
  CUstream_st(const CUstream_st&) = delete;
  CUstream_st& operator=(const CUstream_st&) = delete;

  void push(std::function<void()> item) {
    {
      const std::lock_guard lock(mutex);
      work.push_back(std::move(item));
    }
    changed.notify_one();
  }
  void run() {
    while (true) {
      std::unique_lock lock(mutex);
      changed.wait(lock, [this] { return !work.empty(); });
      const std::function<void()> item = std::move(work.front());
      work.pop_front();
      lock.unlock();
      if (!item) {
        return;
      }
      item();
    }
  }

  const int number;
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::function<void()>> work;
  std::thread thread;
};

namespace moesaic::nccl_double {

cudaStream_t compute_stream() {
  static CUstream_st stream(false);
  return &stream;
}

void queue(cudaStream_t stream, std::function<void()> work) {
  if (stream->thread.joinable()) {
    stream->push(std::move(work));
  } else {
    work();
  }
}

int number_of(cudaStream_t stream) { return stream->number; }

RankLog& record() {
  static RankLog log;
  return log;
}

}  // namespace moesaic::nccl_double

using moesaic::nccl_double::record;
using moesaic::nccl_double::Step;

const char* cudaGetErrorString(cudaError_t /*error*/) { return "an error"; }
const char* cudaGetErrorName(cudaError_t error) { return cudaGetErrorString(error); }

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned /*flags*/) {
  *stream = new CUstream_st(true);
  return cudaSuccess;
}

// CUDA lets the stream end its work later; here the host waits.
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned /*flags*/) {
  *event = new CUevent_st;
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  event->latch = std::make_shared<Latch>();
  event->number = next_event();
  record().steps.push_back(
      {.kind = Step::Kind::kRecord, .stream = stream->number, .event = event->number});
  moesaic::nccl_double::queue(stream, [latch = event->latch] { latch->set(); });
  return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned /*flags*/) {
  record().steps.push_back(
      {.kind = Step::Kind::kWait, .stream = stream->number, .event = event->number});
  moesaic::nccl_double::queue(stream, [latch = event->latch] { latch->wait(); });
  return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  return event->latch->is_set() ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  event->latch->wait();
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind /*kind*/,
                            cudaStream_t stream) {
  moesaic::nccl_double::queue(stream, [=] { std::memcpy(to, from, bytes); });
  return cudaSuccess;
}
