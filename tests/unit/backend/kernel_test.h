#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <tuple>

#include "backend/backend.h"
#include "backend/cpu/instruction_set.h"
#include "reference/types.h"

// What every test of a kernel needs: the backends, random values as a dtype holds them, tensors
// from and to arrays of doubles, and the comparison with the reference.
namespace moesaic::testing {

using reference::Indices;
using reference::Vector;

enum class Engine { kPortable, kAvx2, kAvx512, kAvx512Pairs, kMatrixUnits, kCuda };
using KernelCase = std::tuple<Engine, DType>;  // the dtype is the compute dtype

/// The kernels of an engine on the host; pairs come with sums of bytes where the processor has
/// them.
cpu::InstructionSet set_of(Engine engine);

/// Row counts that exercise none, one, less than a vector, and more than a tile.
constexpr std::initializer_list<std::int64_t> kRowCounts = {0, 1, 3, 17, 65, 130};

/// Normal values, rounded to the dtype, so that kernel and reference read the same numbers.
Vector random(std::initializer_list<std::int64_t> dims, std::string_view stream,
              DType dtype = DType::kF32);
/// Integers in [0, below).
Indices random_indices(std::int64_t count, std::int64_t below, std::string_view stream);
/// |actual - expected| <= tolerance (|expected| + rms(expected)), and no NaN.
void expect_close(const Vector& actual, const Vector& expected, double tolerance,
                  const std::string& what);
Vector sum(const Vector& a, const Vector& b);
float to_float(double value);

class KernelTest : public ::testing::TestWithParam<KernelCase> {
 protected:
  void SetUp() override;  // skips, with the reason, where the engine is missing

  Backend& backend() const { return *backend_; }
  DType compute() const { return std::get<DType>(GetParam()); }
  /// Relative error that a single product or sum in this dtype may have.
  double tolerance() const { return tolerance_of(compute()); }
  static double tolerance_of(DType dtype) { return dtype == DType::kF32 ? 2e-5 : 8e-3; }

  Tensor upload(const Vector& values, const Shape& shape, DType dtype = DType::kF32) const;
  Tensor upload(const Indices& values, const Shape& shape) const;
  Tensor upload_offsets(const Indices& offsets) const {
    return upload(offsets, {std::ssize(offsets)});
  }
  /// A tensor of NaN: what a kernel fails to write is found.
  Tensor poisoned(const Shape& shape, DType dtype = DType::kF32) const;
  Vector download(const Tensor& tensor) const;
  Indices download_indices(const Tensor& tensor) const;

 private:
  std::unique_ptr<Backend> backend_;
};

std::string case_name(const ::testing::TestParamInfo<KernelCase>& info);
inline const auto kEngines =
    ::testing::Values(Engine::kPortable, Engine::kAvx2, Engine::kAvx512, Engine::kAvx512Pairs,
                      Engine::kMatrixUnits, Engine::kCuda);
/// Every engine with both compute dtypes, or with fp32 alone.
inline auto all_cases() {
  return ::testing::Combine(kEngines, ::testing::Values(DType::kF32, DType::kBf16));
}
/// Without the engines that only have other products of whole matrices.
inline auto packed_cases() {
  return ::testing::Combine(::testing::Values(Engine::kPortable, Engine::kAvx2, Engine::kAvx512,
                                              Engine::kAvx512Pairs, Engine::kCuda),
                            ::testing::Values(DType::kF32, DType::kBf16));
}
inline auto fp32_cases() { return ::testing::Combine(kEngines, ::testing::Values(DType::kF32)); }

}  // namespace moesaic::testing
