#include <cuda_runtime.h>
#include <fmt/format.h>

#include "backend/gpus.h"
#include "base/error.h"

namespace moesaic {
namespace {

constexpr int kLeastMajor = 8;

void checked(cudaError_t result, const char* what) {
  if (result != cudaSuccess) {
    throw Error(Exit::kUsage,
                fmt::format("run.device = cuda: {}: {}", what, cudaGetErrorString(result)));
  }
}

// As nvidia-smi writes it.
std::string uuid_text(const cudaUUID_t& uuid) {
  std::string text = "GPU-";
  for (int i = 0; i < 16; ++i) {
    text += fmt::format("{}{:02x}", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "",
                        static_cast<unsigned char>(uuid.bytes[i]));
  }
  return text;
}

}  // namespace

int visible_gpus() {
  int count = 0;
  const cudaError_t result = cudaGetDeviceCount(&count);
  if (result == cudaErrorNoDevice) {
    return 0;
  }
  if (result == cudaErrorInsufficientDriver) {
    int built = 0, driver = 0;
    cudaRuntimeGetVersion(&built);
    cudaDriverGetVersion(&driver);
    throw Error(
        Exit::kUsage,
        driver == 0
            ? std::string("run.device = cuda: this host has no driver for GPUs")
            : fmt::format("run.device = cuda: the driver serves CUDA {}.{}, this program "
                          "needs {}.{}: use a newer driver, or run.device = cpu",
                          driver / 1000, driver % 1000 / 10, built / 1000, built % 1000 / 10));
  }
  checked(result, "GPUs cannot be counted");
  return count;
}

Gpu gpu_facts(int device) {
  cudaDeviceProp facts{};
  checked(cudaGetDeviceProperties(&facts, device), "a GPU says nothing of itself");
  if (facts.major < kLeastMajor) {
    throw Error(Exit::kUsage,
                fmt::format("run.device = cuda: {} has compute capability {}.{}; {}.0 or more is "
                            "needed",
                            facts.name, facts.major, facts.minor, kLeastMajor));
  }
  return {facts.name, uuid_text(facts.uuid), facts.major, facts.minor};
}

}  // namespace moesaic
