#include "unit/backend/kernel_test.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "base/error.h"
#include "tensor/rng.h"

namespace moesaic::testing {
namespace {

constexpr int kThreads = 2;

double round_to(double value, DType dtype) {
  const float single = to_float(value);
  return dtype == DType::kF32 ? single : static_cast<float>(BFloat16(single));
}

template <class T>
Tensor upload_as(Backend& backend, const std::vector<T>& host, const Shape& shape) {
  require(shape.numel() == std::ssize(host), "a test uploads another number of values");
  Tensor tensor = backend.empty(dtype_of<T>(), shape);
  backend.upload(std::as_bytes(std::span(host)), tensor);
  return tensor;
}

template <class T>
std::vector<T> download_as(Backend& backend, const Tensor& tensor) {
  std::vector<T> host(static_cast<std::size_t>(tensor.numel()));
  backend.download(tensor, std::as_writable_bytes(std::span(host)));
  backend.synchronize();
  return host;
}

}  // namespace

float to_float(double value) { return static_cast<float>(value); }

Vector random(std::initializer_list<std::int64_t> dims, std::string_view stream, DType dtype) {
  const Rng rng(17, hash_name(stream));
  std::int64_t count = 1;
  for (const std::int64_t dim : dims) {
    count *= dim;
  }
  Vector values;
  for (std::int64_t i = 0; i < count; ++i) {
    values.push_back(round_to(rng.normal(static_cast<std::uint64_t>(i)), dtype));
  }
  return values;
}

Indices random_indices(std::int64_t count, std::int64_t below, std::string_view stream) {
  const Rng rng(17, hash_name(stream));
  Indices values;
  for (std::int64_t i = 0; i < count; ++i) {
    const double uniform = rng.uniform(static_cast<std::uint64_t>(i));
    values.push_back(static_cast<std::int64_t>(uniform * static_cast<double>(below)));
  }
  return values;
}

void expect_close(const Vector& actual, const Vector& expected, double tolerance,
                  const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  double squares = 0.0;
  for (const double value : expected) {
    squares += value * value;
  }
  const double rms = std::sqrt(squares / std::max(1.0, static_cast<double>(expected.size())));
  for (std::size_t i = 0; i < actual.size(); ++i) {
    const double error = std::abs(actual[i] - expected[i]);
    // Negated, so that NaN fails; one element of an array is enough to read.
    if (!(error <= tolerance * (std::abs(expected[i]) + rms))) {
      ADD_FAILURE() << what << ": element " << i << " of " << actual.size() << " is " << actual[i]
                    << " instead of " << expected[i] << " (rms " << rms << ")";
      return;
    }
  }
}

Vector sum(const Vector& a, const Vector& b) {
  Vector out(a.size());
  std::transform(a.begin(), a.end(), b.begin(), out.begin(), std::plus<>());
  return out;
}

cpu::InstructionSet set_of(Engine engine) {
  switch (engine) {
    case Engine::kAvx2:
      return cpu::avx2_kernels();
    case Engine::kAvx512:
      return cpu::avx512_kernels();
    case Engine::kAvx512Pairs:
      return cpu::avx512_bytes_are_usable() ? cpu::with_bytes(cpu::avx512_bf16_kernels())
                                            : cpu::avx512_bf16_kernels();
    case Engine::kMatrixUnits:
      return cpu::matrix_unit_kernels();
    default:
      return cpu::portable_kernels();
  }
}

void KernelTest::SetUp() {
  const Engine engine = std::get<Engine>(GetParam());
  switch (engine) {
    case Engine::kPortable:
      break;
    case Engine::kAvx2:
      if (!cpu::avx2_is_usable()) {
        GTEST_SKIP() << "this processor has no AVX2 with FMA";
      }
      break;
    case Engine::kAvx512:
    case Engine::kMatrixUnits:
      if (!cpu::avx512_is_usable()) {
        GTEST_SKIP() << "this processor has no AVX-512";
      }
      break;
    case Engine::kAvx512Pairs:
      if (!cpu::avx512_bf16_is_usable()) {
        GTEST_SKIP() << "this processor has no AVX512-BF16";
      }
      break;
    case Engine::kCuda:
      if (!cuda_is_built_in()) {
        GTEST_SKIP() << "built without CUDA";
      }
      try {
        backend_ = make_cuda_backend(0);
      } catch (const Error& error) {
        if (error.code() != Exit::kUsage) {
          throw;
        }
        GTEST_SKIP() << error.what();
      }
      return;
  }
  backend_ = std::make_unique<cpu::CpuBackend>(kThreads, set_of(engine));
}

Tensor KernelTest::upload(const Vector& values, const Shape& shape, DType dtype) const {
  if (dtype == DType::kF64) {
    return upload_as(*backend_, values, shape);
  }
  if (dtype == DType::kF32) {
    return upload_as(*backend_, std::vector<float>(values.begin(), values.end()), shape);
  }
  std::vector<BFloat16> host;
  for (const double value : values) {
    host.emplace_back(to_float(value));
  }
  return upload_as(*backend_, host, shape);
}

Tensor KernelTest::upload(const Indices& values, const Shape& shape) const {
  std::vector<std::int32_t> host;
  for (const std::int64_t value : values) {
    host.push_back(static_cast<std::int32_t>(value));
  }
  return upload_as(*backend_, host, shape);
}

Tensor KernelTest::poisoned(const Shape& shape, DType dtype) const {
  if (dtype == DType::kI32) {
    return upload(Indices(static_cast<std::size_t>(shape.numel()), -77), shape);
  }
  const double nan = std::numeric_limits<double>::quiet_NaN();
  return upload(Vector(static_cast<std::size_t>(shape.numel()), nan), shape, dtype);
}

Vector KernelTest::download(const Tensor& tensor) const {
  Vector values;
  if (tensor.dtype() == DType::kF64) {
    return download_as<double>(*backend_, tensor);
  }
  if (tensor.dtype() == DType::kF32) {
    const auto host = download_as<float>(*backend_, tensor);
    values.assign(host.begin(), host.end());
    return values;
  }
  for (const BFloat16 value : download_as<BFloat16>(*backend_, tensor)) {
    values.push_back(static_cast<float>(value));
  }
  return values;
}

Indices KernelTest::download_indices(const Tensor& tensor) const {
  const auto host = download_as<std::int32_t>(*backend_, tensor);
  return {host.begin(), host.end()};
}

std::string case_name(const ::testing::TestParamInfo<KernelCase>& info) {
  const char* engine = "";
  switch (std::get<Engine>(info.param)) {
    case Engine::kPortable:
      engine = "portable";
      break;
    case Engine::kAvx2:
      engine = "avx2";
      break;
    case Engine::kAvx512:
      engine = "avx512";
      break;
    case Engine::kAvx512Pairs:
      engine = "avx512_bf16";
      break;
    case Engine::kMatrixUnits:
      engine = "matrix_units";
      break;
    case Engine::kCuda:
      engine = "cuda";
  }
  return std::string(engine) + "_" + name_of(std::get<DType>(info.param));
}

}  // namespace moesaic::testing
