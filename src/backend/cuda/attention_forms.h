#pragma once

#include <type_traits>

#include "backend/attention_checks.h"
#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/device/attention_mma.cuh"
#include "backend/cuda/device/attention_simt.cuh"
#include "backend/cuda/device/vectors.cuh"

// On the host: calls of attention for kernels, and the form that a call's blocks have. A form
// changes no bit.
namespace moesaic::cuda {

/// Calls work with a T of this dtype.
template <class Work>
void with_type(DType dtype, const Work& work) {
  if (dtype == DType::kF32) {
    work(float());
  } else {
    require(dtype == DType::kBf16, "attention of another dtype");
    work(BFloat16());
  }
}

/// Heads in rows of `row_step` elements.
template <class T>
HeadView<T> view_of(const Tensor& tensor, std::int64_t row_step, const RowGroups& heads) {
  T* const data = device<std::remove_const_t<T>>(tensor) + heads.first;
  return {.data = data,
          .row_step = row_step,
          .head_step = heads.stride,
          .vectors = takes_vectors(heads.width, data) && row_step % kVector == 0 &&
                     (heads.groups == 1 || heads.stride % kVector == 0)};
}
template <class T>
HeadView<T> view_of(const HeadRows& rows) {
  return view_of<T>(rows.rows, rows.rows.dim(1), rows.heads);
}

template <class T>
AttentionTarget<T> result_target(const Tensor& out, const Tensor& lse) {
  return {.out = device<T>(out), .lse = device<float>(lse)};
}
template <class T>
AttentionTarget<T> sums_target(const AttentionSums& sums, bool adds) {
  float* const top = device<float>(sums.top);
  float* const total = device<float>(sums.total);
  return {.out = nullptr,
          .lse = nullptr,
          .values = device<float>(sums.values),
          .top = top,
          .total = total,
          .before_top = top,
          .before_total = total,
          .adds = adds};
}

inline const std::int32_t* numbers_of(const Tensor& tensor) {
  return tensor.defined() ? device<std::int32_t>(tensor) : nullptr;
}

template <class T>
AttentionCall<T> call_of(const HeadRows& q, const KeyRows& keys, const VisibleKeys& visible,
                         float scale, const AttentionTarget<T>& to) {
  require_heads(q, keys, visible.first);
  return {.q = view_of<const T>(q),
          .k = view_of<const T>(keys.k),
          .v = view_of<const T>(keys.v),
          .rows = static_cast<int>(q.rows.dim(0)),
          .heads = static_cast<int>(q.heads.groups),
          .group = static_cast<int>(q.heads.groups / keys.k.heads.groups),
          .head_dim = static_cast<int>(q.heads.width),
          .v_dim = static_cast<int>(keys.v.heads.width),
          .first = device<std::int32_t>(visible.first),
          .last = device<std::int32_t>(visible.last),
          .origin = numbers_of(visible.origin),
          .fork = numbers_of(visible.fork),
          .jump = numbers_of(visible.jump),
          .keys_begin = static_cast<int>(keys.begin),
          .keys_end = static_cast<int>(keys.end()),
          .scale = scale,
          .to = to};
}

inline std::int64_t tiles_of(std::int64_t queries, std::int64_t rows) {
  return (queries + rows - 1) / rows;
}

/// Tiles, columns, heads.
template <class T>
dim3 simt_grid(const AttentionCall<T>& call, std::int64_t tiles, std::int64_t heads) {
  return dim3(static_cast<unsigned>(tiles),
              static_cast<unsigned>(tiles_of(call.v_dim, kSimtColumns)),
              static_cast<unsigned>(heads));
}

/// Several blocks have columns of a row then, of which one writes top and total while others read
/// them: these read copies.
struct BeforeSums {
  Tensor top, total;
};
template <class T>
BeforeSums copy_before(CudaBackend& backend, AttentionCall<T>& call, const AttentionSums& sums) {
  if (call.v_dim <= kSimtColumns || sums.top.numel() == 0) {
    return {};
  }
  const BeforeSums copies{backend.empty(DType::kF32, sums.top.shape()),
                          backend.empty(DType::kF32, sums.total.shape())};
  backend.convert(sums.top, copies.top);
  backend.convert(sums.total, copies.total);
  call.to.before_top = device<float>(copies.top);
  call.to.before_total = device<float>(copies.total);
  return copies;
}

// Shared memory that a block may have on compute capability 8.0.
constexpr int kMostShared = 163 * 1024;

template <class F, class Work>
bool try_form(int head_dim, int v_dim, bool own_values, const Work& work) {
  const MmaLayout layout = layout_of<F>(head_dim, v_dim, own_values);
  if (v_dim > F::kColumns || layout.bytes > kMostShared) {
    return false;
  }
  work(F(), layout);
  return true;
}

/// Calls work with the form of many queries, and its layout. False: there is none.
template <class Work>
bool with_form(int head_dim, int v_dim, bool own_values, const Work& work) {
  return try_form<Form<4, 1, 2, 8>>(head_dim, v_dim, own_values, work) ||
         try_form<Form<4, 1, 2, 16>>(head_dim, v_dim, own_values, work) ||
         try_form<Form<4, 2, 1, 16>>(head_dim, v_dim, own_values, work) ||
         try_form<Form<2, 4, 1, 16>>(head_dim, v_dim, own_values, work);
}
/// That of at most 16.
template <class Work>
bool with_small_form(int head_dim, int v_dim, bool own_values, const Work& work) {
  return try_form<Form<1, 4, 1, 4>>(head_dim, v_dim, own_values, work) ||
         try_form<Form<1, 4, 1, 16>>(head_dim, v_dim, own_values, work);
}

}  // namespace moesaic::cuda
