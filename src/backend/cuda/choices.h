#pragma once

#include <type_traits>

#include "tensor/tensor.h"

// From what is known when a kernel is launched to its template arguments.
namespace moesaic::cuda {

/// Calls work(float{}) or work(BFloat16{}).
template <class Work>
void with_type(DType dtype, const Work& work) {
  require(dtype == DType::kF32 || dtype == DType::kBf16, "neither fp32 nor bf16");
  if (dtype == DType::kF32) {
    work(float{});
  } else {
    work(BFloat16{});
  }
}

/// Calls work with the flag as std::true_type or std::false_type.
template <class Work>
void with_flag(bool flag, const Work& work) {
  if (flag) {
    work(std::true_type{});
  } else {
    work(std::false_type{});
  }
}

}  // namespace moesaic::cuda
