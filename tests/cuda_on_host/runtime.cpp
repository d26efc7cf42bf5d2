#include <cuda_runtime.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <utility>
#include <vector>

#include "cuda_on_host/sanitizers.h"

namespace {

using Clock = std::chrono::steady_clock;
using moesaic::cuda_on_host::machine;

struct Record {  // of an event
  bool done = true;
  cudaStream_t stream = nullptr;
  Clock::time_point at;
};

}  // namespace

// NOLINTBEGIN(readability-identifier-naming)
struct CUstream_st {
  std::deque<std::function<void()>> work;
  int device = 0;
};
struct CUevent_st {
  std::shared_ptr<Record> record = std::make_shared<Record>();
};
// NOLINTEND(readability-identifier-naming)

namespace {

struct State {
  std::recursive_mutex mutex;
  std::map<const std::byte*, std::size_t> device, pinned;
  std::size_t on_device = 0;
  std::set<cudaStream_t> streams;
};
State& state() {
  static State all;
  return all;
}
thread_local int current_device = 0;
thread_local cudaError_t last_error = cudaSuccess;

using Lock = std::lock_guard<std::recursive_mutex>;

cudaError_t result(cudaError_t error) {
  if (error != cudaSuccess && error != cudaErrorNotReady) {
    last_error = error;
  }
  return error;
}

bool holds(const std::map<const std::byte*, std::size_t>& blocks, const void* place,
           std::size_t bytes) {
  const auto* const begin = static_cast<const std::byte*>(place);
  auto after = blocks.upper_bound(begin);
  if (after == blocks.begin()) {
    return false;
  }
  --after;
  return begin + bytes <= after->first + after->second;
}

void do_one(cudaStream_t stream) {
  auto work = std::move(stream->work.front());
  stream->work.pop_front();
  work();
}

void do_all(cudaStream_t stream) {
  while (!stream->work.empty()) {
    do_one(stream);
  }
}

cudaError_t machine_error() {
  if (machine().old_driver) {
    return cudaErrorInsufficientDriver;
  }
  return machine().devices == 0 ? cudaErrorNoDevice : cudaSuccess;
}

cudaError_t allocate(std::map<const std::byte*, std::size_t>& blocks, void** place,
                     std::size_t bytes) {
  constexpr std::size_t kBorder = 256;
  void* const memory =
      std::aligned_alloc(kBorder, std::max(kBorder, (bytes + kBorder - 1) / kBorder * kBorder));
  if (memory == nullptr) {
    return cudaErrorMemoryAllocation;
  }
  if (&blocks == &state().device) {
    std::memset(memory, 0xff, bytes);
  }
  blocks.emplace(static_cast<const std::byte*>(memory), bytes);
  *place = memory;
  return cudaSuccess;
}

bool give_back(std::map<const std::byte*, std::size_t>& blocks, void* place) {
  const auto found = blocks.find(static_cast<const std::byte*>(place));
  if (found == blocks.end()) {
    return false;
  }
  moesaic::cuda_on_host::allow(place, found->second);
  blocks.erase(found);
  std::free(place);
  return true;
}

}  // namespace

namespace moesaic::cuda_on_host {

Machine& machine() {
  static Machine all;
  return all;
}

std::size_t bytes_on_device() {
  const Lock lock(state().mutex);
  return state().on_device;
}

void flush(cudaStream_t stream) {
  const Lock lock(state().mutex);
  do_all(stream);
}

void spoil(const void* place, std::size_t bytes) {
  const Lock lock(state().mutex);
  const bool idle = std::all_of(state().streams.begin(), state().streams.end(),
                                [](cudaStream_t stream) { return stream->work.empty(); });
  if (idle && holds(state().device, place, bytes)) {
    std::memset(const_cast<void*>(place), 0xff, bytes);
  }
}

cudaError_t check_launch(dim3 grid, dim3 block, std::size_t shared_bytes) {
  constexpr unsigned kMost = 65535;
  if (block.x == 0 || block.y == 0 || block.z == 0 ||
      std::size_t{block.x} * block.y * block.z > 1024 || block.z > 64 || grid.x > 0x7fffffffU ||
      grid.y > kMost || grid.z > kMost) {
    return cudaErrorInvalidConfiguration;
  }
  return shared_bytes > kMostShared ? cudaErrorInvalidValue : cudaSuccess;
}

}  // namespace moesaic::cuda_on_host

// NOLINTBEGIN(readability-identifier-naming)
const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorInsufficientDriver:
      return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorNoDevice:
      return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    case cudaErrorInvalidResourceHandle:
      return "invalid resource handle";
    case cudaErrorNotReady:
      return "device not ready";
    case cudaErrorIllegalAddress:
      return "an illegal memory access was encountered";
  }
  return "unknown error";
}
const char* cudaGetErrorName(cudaError_t error) {
  return error == cudaSuccess ? "cudaSuccess" : "cudaError";
}
cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
cudaError_t cudaPeekAtLastError() { return last_error; }

cudaError_t cudaGetDeviceCount(int* count) {
  *count = machine().devices;
  return result(machine_error());
}
cudaError_t cudaSetDevice(int device) {
  if (machine_error() != cudaSuccess) {
    return result(machine_error());
  }
  if (device < 0 || device >= machine().devices) {
    return result(cudaErrorInvalidDevice);
  }
  current_device = device;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (device < 0 || device >= machine().devices) {
    return result(cudaErrorInvalidDevice);
  }
  *properties = {};
  std::strcpy(properties->name, "emulation");
  properties->uuid.bytes[0] = static_cast<char>(device + 1);
  properties->totalGlobalMem = machine().memory;
  properties->sharedMemPerBlockOptin = moesaic::cuda_on_host::kMostShared;
  properties->major = machine().major;
  properties->minor = machine().minor;
  properties->multiProcessorCount = machine().processors;
  properties->pciBusID = device + 1;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  cudaDeviceProp properties;
  const cudaError_t error = cudaGetDeviceProperties(&properties, device);
  if (error != cudaSuccess) {
    return error;
  }
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = properties.multiProcessorCount;
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = properties.major;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = properties.minor;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(properties.sharedMemPerBlockOptin);
      break;
  }
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  const Lock lock(state().mutex);
  for (const cudaStream_t stream : state().streams) {
    do_all(stream);
  }
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = machine().old_driver ? 11000 : 13000;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  const Lock lock(state().mutex);
  *total = machine().memory;
  *free = *total - std::min(*total, state().on_device);
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** place, std::size_t bytes) {
  const Lock lock(state().mutex);
  if (machine_error() != cudaSuccess) {
    return result(machine_error());
  }
  if (state().on_device + bytes > machine().memory) {
    return result(cudaErrorMemoryAllocation);
  }
  const cudaError_t error = allocate(state().device, place, bytes);
  state().on_device += error == cudaSuccess ? bytes : 0;
  return result(error);
}
cudaError_t cudaFree(void* place) {
  const Lock lock(state().mutex);
  if (place == nullptr) {
    return cudaSuccess;
  }
  cudaDeviceSynchronize();
  const auto found = state().device.find(static_cast<const std::byte*>(place));
  state().on_device -= found == state().device.end() ? 0 : found->second;
  return result(give_back(state().device, place) ? cudaSuccess : cudaErrorInvalidValue);
}
cudaError_t cudaHostAlloc(void** place, std::size_t bytes, unsigned /*flags*/) {
  const Lock lock(state().mutex);
  return result(allocate(state().pinned, place, bytes));
}
cudaError_t cudaMallocHost(void** place, std::size_t bytes) {
  return cudaHostAlloc(place, bytes, cudaHostAllocDefault);
}
cudaError_t cudaFreeHost(void* place) {
  const Lock lock(state().mutex);
  if (place == nullptr) {
    return cudaSuccess;
  }
  cudaDeviceSynchronize();
  return result(give_back(state().pinned, place) ? cudaSuccess : cudaErrorInvalidValue);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned /*flags*/) {
  const Lock lock(state().mutex);
  if (machine_error() != cudaSuccess) {
    return result(machine_error());
  }
  *stream = new CUstream_st();
  (*stream)->device = current_device;
  state().streams.insert(*stream);
  return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithFlags(stream, 0); }
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const Lock lock(state().mutex);
  do_all(stream);
  state().streams.erase(stream);
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const Lock lock(state().mutex);
  do_all(stream);
  return cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  const Lock lock(state().mutex);
  if (stream->work.empty()) {
    return cudaSuccess;
  }
  do_one(stream);
  return cudaErrorNotReady;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned /*flags*/) {
  const Lock lock(state().mutex);
  stream->work.emplace_back([record = event->record] {
    while (!record->done) {
      do_one(record->stream);
    }
  });
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned /*flags*/) {
  *event = new CUevent_st();
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const Lock lock(state().mutex);
  event->record = std::make_shared<Record>();  // who waits for the one before goes on doing so
  event->record->done = false;
  event->record->stream = stream;
  stream->work.emplace_back([record = event->record] {
    record->at = Clock::now();
    record->done = true;
  });
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  const Lock lock(state().mutex);
  if (event->record->done) {
    return cudaSuccess;
  }
  do_one(event->record->stream);
  return cudaErrorNotReady;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  const Lock lock(state().mutex);
  const std::shared_ptr<Record> record = event->record;
  while (!record->done) {
    do_one(record->stream);
  }
  return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to) {
  const Lock lock(state().mutex);
  if (!from->record->done || !to->record->done) {
    return cudaErrorNotReady;
  }
  const std::chrono::duration<float, std::milli> time = to->record->at - from->record->at;
  *milliseconds = time.count();
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  const Lock lock(state().mutex);
  if (bytes == 0) {
    return cudaSuccess;
  }
  const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  if (kind == cudaMemcpyDefault || holds(state().device, to, bytes) != to_device ||
      holds(state().device, from, bytes) != from_device) {
    return result(cudaErrorInvalidValue);
  }
  const bool pinned = (to_device || holds(state().pinned, to, bytes)) &&
                      (from_device || holds(state().pinned, from, bytes));
  stream->work.emplace_back([=] { std::memcpy(to, from, bytes); });
  if (!pinned) {  // CUDA waits for memory that the system may move
    do_all(stream);
  }
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t stream) {
  const Lock lock(state().mutex);
  if (bytes == 0) {
    return cudaSuccess;
  }
  if (!holds(state().device, to, bytes)) {
    return result(cudaErrorInvalidValue);
  }
  stream->work.emplace_back([=] { std::memset(to, value, bytes); });
  return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void* /*kernel*/, cudaFuncAttribute /*attribute*/,
                                 int value) {
  return result(value > static_cast<int>(moesaic::cuda_on_host::kMostShared) ? cudaErrorInvalidValue
                                                                             : cudaSuccess);
}
// NOLINTEND(readability-identifier-naming)
