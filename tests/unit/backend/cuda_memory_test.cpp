// The CUDA backend's memory and transfers, on the emulation.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <numeric>
#include <string>
#include <vector>

#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/staging.h"

namespace moesaic::cuda {
namespace {

using cuda_on_host::machine;

class CudaMemory : public ::testing::Test {
 protected:
  void TearDown() override { machine() = {}; }
};

std::span<const std::byte> bytes_of(const std::vector<float>& values) {
  return std::as_bytes(std::span(values));
}

std::vector<float> fetch(Backend& backend, const Tensor& tensor) {
  std::vector<float> values(static_cast<std::size_t>(tensor.numel()));
  backend.download(tensor, std::as_writable_bytes(std::span(values)));
  return values;
}

// Protects: bytes arrive, and nothing waits but what asks for them.
TEST_F(CudaMemory, Transfers) {
  CudaBackend backend(0);
  EXPECT_EQ(backend.name(), "cuda sm_80 emulation");
  std::vector<float> values(100000);
  std::iota(values.begin(), values.end(), 0.0F);
  const Tensor x = backend.empty(DType::kF32, {100000});
  const Tensor y = backend.empty(DType::kF32, {100000});
  EXPECT_EQ(x.location(), Location::kDevice);
  EXPECT_THROW(x.as<float>(), Error);
  EXPECT_EQ(device<float>(x), reinterpret_cast<float*>(x.data()));
  EXPECT_EQ(device<float>(Tensor()), nullptr);
  {
    std::vector<float> passing = values;
    backend.upload(bytes_of(passing), x);
    std::fill(passing.begin(), passing.end(), -1.0F);  // it may change at once
  }
  backend.zero(y);
  EXPECT_EQ(backend.waits(), 0);
  EXPECT_EQ(fetch(backend, x), values);
  EXPECT_EQ(fetch(backend, y), std::vector<float>(100000));
  EXPECT_EQ(backend.waits(), 2);
  const std::vector<std::int32_t> rows = {1, 2, 3};
  EXPECT_EQ(backend.upload_table(std::span(rows)).numel(), 3);
  EXPECT_EQ(backend.waits(), 2);
}

// Protects the ring: pieces wrap around, and what is under way is never written over.
TEST_F(CudaMemory, RingWrapsAround) {
  const Stream stream;
  UploadRing ring(1024);
  CudaBackend backend(0);
  std::vector<Tensor> tensors;
  std::vector<std::vector<float>> expected;
  int waits = 0;
  for (int i = 0; i < 200; ++i) {
    std::vector<float> values(static_cast<std::size_t>(i * 37 % 190));
    std::iota(values.begin(), values.end(), static_cast<float>(i));
    tensors.push_back(backend.empty(DType::kF32, {std::ssize(values)}));
    waits += ring.upload(bytes_of(values), tensors.back().data(), stream.get());
    expected.push_back(values);
  }
  check(cudaStreamSynchronize(stream.get()), "test");
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    EXPECT_EQ(fetch(backend, tensors[i]), expected[i]) << i;
  }
  EXPECT_GT(waits, 0);
}

// Protects: memory is reused, given back on demand, and asked for again before it is missing.
TEST_F(CudaMemory, BlocksComeFromTheReserve) {
  machine().memory = std::size_t{64} << 20U;
  constexpr std::int64_t kMib = std::int64_t{1} << 18U;  // of floats
  const std::size_t before = cuda_on_host::bytes_on_device();
  {
    CudaBackend backend(0);
    const Tensor kept = backend.empty(DType::kF32, {kMib});
    for (int i = 0; i < 5; ++i) {
      const Tensor passing = backend.empty(DType::kF32, {20 * kMib});
    }
    EXPECT_LE(cuda_on_host::bytes_on_device() - before, std::size_t{30} << 20U);
    // 40 MiB fit only where the 20 MiB in reserve are given up.
    EXPECT_EQ(backend.empty(DType::kF32, {40 * kMib}).numel(), 40 * kMib);
    backend.release_reserve();
    EXPECT_LE(cuda_on_host::bytes_on_device() - before, std::size_t{4} << 20U);
    try {
      backend.empty(DType::kF32, {100 * kMib});
      ADD_FAILURE() << "more than there is";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Exit::kInternal);
      const std::string what = error.what();
      EXPECT_NE(what.find("out of device memory: 104857"), std::string::npos) << what;
    }
  }
  EXPECT_EQ(cuda_on_host::bytes_on_device(), before);
}

// Protects: where there is no usable device, the user is told which, and nothing is allocated.
TEST_F(CudaMemory, NoDevice) {
  const auto refusal = [](int device) -> std::string {
    try {
      make_cuda_backend(device);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Exit::kUsage);
      return error.what();
    }
    return {};
  };
  EXPECT_EQ(refusal(0), "");
  EXPECT_NE(refusal(1).find("no device 1, only 1"), std::string::npos);
  machine().major = 7;
  machine().minor = 5;
  EXPECT_NE(refusal(0).find("compute capability 7.5; 8.0 is the least"), std::string::npos);
  machine() = {.devices = 0};
  EXPECT_NE(refusal(0).find("no CUDA-capable device"), std::string::npos);
  machine() = {.old_driver = true};
  EXPECT_NE(refusal(0).find("driver for CUDA 11.0"), std::string::npos);
}

}  // namespace
}  // namespace moesaic::cuda
