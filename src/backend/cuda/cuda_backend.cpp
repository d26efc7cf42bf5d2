#include "backend/cuda/cuda_backend.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "backend/cuda/device/watch.h"

namespace moesaic {

bool cuda_is_built_in() { return true; }

std::unique_ptr<Backend> make_cuda_backend(int device) {
  return std::make_unique<cuda::CudaBackend>(device);
}

namespace cuda {
namespace {

constexpr std::size_t kMib = std::size_t{1} << 20U;
constexpr std::size_t kUploads = 64 * kMib;
constexpr std::size_t kDownloads = 16 * kMib;

// The device, before anything is allocated. Throws kUsage where it cannot be used.
cudaDeviceProp open_device(int device) {
  int count = 0;
  const cudaError_t found = cudaGetDeviceCount(&count);
  if (found != cudaSuccess || count == 0) {
    cudaGetLastError();
    int driver = 0;
    cudaDriverGetVersion(&driver);
    throw Error(Exit::kUsage,
                fmt::format("run.device = cuda: {} (driver for CUDA {}.{}); use run.device = cpu",
                            cudaGetErrorString(found == cudaSuccess ? cudaErrorNoDevice : found),
                            driver / 1000, driver % 1000 / 10));
  }
  if (device < 0 || device >= count) {
    throw Error(Exit::kUsage,
                fmt::format("run.device = cuda: there is no device {}, only {}", device, count));
  }
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, device), "properties of a device");
  if (properties.major < 8) {
    throw Error(Exit::kUsage,
                fmt::format("run.device = cuda: {} has compute capability {}.{}; 8.0 is the least",
                            properties.name, properties.major, properties.minor));
  }
  check(cudaSetDevice(device), "the choice of a device");
  return properties;
}

std::byte* allocate(std::byte* /*wanted*/, std::size_t bytes) {
  void* place = nullptr;
  const cudaError_t result = cudaMalloc(&place, bytes);
  if (result == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // it is not lasting
    return nullptr;
  }
  check(result, "device memory");
  return static_cast<std::byte*>(place);
}

MemorySource device_memory() {
  constexpr std::size_t kUnit = 2 * kMib;
  return {.name = "device memory",
          .border = 256,
          .gap = kWatchedGap,
          .unit = kUnit,
          .growth = [](std::size_t in_use) { return in_use / 4; },
          .place_with_room = {},
          .allocate = allocate,
          .free = [](std::byte* place, std::size_t /*bytes*/) { cudaFree(place); },
          .release = {},
          .forbid = forbid,
          .allow = allow};
}

std::string name_of(const cudaDeviceProp& properties) {
  return fmt::format("cuda sm_{}{} {}", properties.major, properties.minor, properties.name);
}

}  // namespace

CudaBackend::CudaBackend(int device) : CudaBackend(open_device(device)) {}

CudaBackend::CudaBackend(const cudaDeviceProp& properties)
    : name_(name_of(properties)),
      sm_count_(properties.multiProcessorCount),
      memory_pool_(device_memory()),
      uploads_(kUploads),
      downloads_(kDownloads) {}

CudaBackend::~CudaBackend() { cudaStreamSynchronize(stream()); }

Tensor CudaBackend::empty(DType dtype, const Shape& shape) {
  std::shared_ptr<void> block =
      memory_pool_.take(static_cast<std::size_t>(shape.numel()) * size_of(dtype));
  auto* data = static_cast<std::byte*>(block.get());
  return {std::move(block), data, dtype, shape, Location::kDevice};
}

void CudaBackend::upload(std::span<const std::byte> host, const Tensor& to) {
  require(host.size() == to.bytes(), "upload of another size");
  count_waits(uploads_.upload(host, to.data(), stream()));
}

Tensor CudaBackend::upload_table(std::span<const std::byte> host) {
  const auto words = static_cast<std::int64_t>((host.size() + 3) / 4);
  Tensor table = empty(DType::kI32, {words});
  count_waits(uploads_.upload(host, table.data(), stream()));
  return table;
}

// Through pinned memory, as much at a time as there is of it.
void CudaBackend::download(std::span<const Download> parts) {
  const std::span<std::byte> pinned = downloads_.bytes();
  std::vector<std::span<std::byte>> targets;  // one after the other in pinned memory
  std::size_t used = 0;
  const auto fetch = [&] {
    check(cudaStreamSynchronize(stream()), "the work of the device");
    std::size_t from = 0;
    for (const std::span<std::byte> target : targets) {
      std::memcpy(target.data(), pinned.data() + from, target.size());
      from += target.size();
    }
    targets.clear();
    used = 0;
  };
  for (const Download& part : parts) {
    require(part.to.size() == part.from.bytes(), "download of another size");
    for (std::size_t done = 0; done < part.to.size();) {
      if (used == pinned.size()) {
        fetch();
      }
      const std::size_t bytes = std::min(part.to.size() - done, pinned.size() - used);
      check(cudaMemcpyAsync(pinned.data() + used, part.from.data() + done, bytes,
                            cudaMemcpyDeviceToHost, stream()),
            "download");
      targets.push_back(part.to.subspan(done, bytes));
      used += bytes;
      done += bytes;
    }
  }
  fetch();
  count_waits();
}

void CudaBackend::synchronize() {
  check(cudaStreamSynchronize(stream()), "the work of the device");
  count_waits();
}

Mark CudaBackend::mark() {
  cudaEvent_t event = nullptr;
  check(cudaEventCreate(&event), "an event");
  Mark mark{.time = {}, .event = std::shared_ptr<void>(event, [](void* of_mark) {
                          cudaEventDestroy(static_cast<cudaEvent_t>(of_mark));
                        })};
  check(cudaEventRecord(event, stream()), "an event");
  return mark;
}

double CudaBackend::seconds(const Mark& from, const Mark& to) {
  float milliseconds = 0.0F;
  auto* const end = static_cast<cudaEvent_t>(to.event.get());
  check(cudaEventSynchronize(end), "the work of the device");
  check(cudaEventElapsedTime(&milliseconds, static_cast<cudaEvent_t>(from.event.get()), end),
        "the time between events");
  return 1e-3 * static_cast<double>(milliseconds);
}

void CudaBackend::release_reserve() {
  check(cudaStreamSynchronize(stream()), "the work of the device");
  memory_pool_.release_reserve();
}

void CudaBackend::zero(const Tensor& x) {
  if (x.bytes() > 0) {
    check(cudaMemsetAsync(x.data(), 0, x.bytes(), stream()), "zeros");
  }
}

}  // namespace cuda
}  // namespace moesaic
