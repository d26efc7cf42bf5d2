#pragma once

#include <cstdint>

#include "backend/cuda/device/ptx.cuh"
#include "backend/cuda/products/product.h"

namespace moesaic::cuda {

/// An operand of a product from a block's first row (or column) and first k on. Beyond its edge
/// and its depth it counts as zero, and is not read.
template <class T>
struct Operand {
  const T* data;
  std::int64_t stride;
  int edge, depth;
};

/// kEdge rows (of a; columns of b) by kDepth of k in shared memory, in lines of 16-byte chunks as
/// in memory. Chunks of a line are permuted, so that the same chunk of eight lines, and eight
/// chunks of a line, lie in all the banks.
template <class T, Inner kInner, int kEdge, int kDepth>
struct OperandTile {
  static constexpr Inner kInnerIs = kInner;
  static constexpr int kChunk = 16 / sizeof(T);  // elements
  static constexpr int kLine = (kInner == Inner::kDepth ? kDepth : kEdge) / kChunk;
  static constexpr int kLines = kInner == Inner::kDepth ? kEdge : kDepth;
  static constexpr int kElements = kEdge * kDepth;
  static_assert(kLine >= 2 && (kLine & (kLine - 1)) == 0, "the permutation is an exclusive or");

  /// Where a chunk begins, in elements.
  static __device__ __forceinline__ int place(int line, int chunk) {
    constexpr int kTurn = kLine < 8 ? 8 / kLine : 1;  // lines that fill the banks once
    constexpr int kMask = kLine < 8 ? kLine - 1 : 7;
    return (line * kLine + (chunk ^ ((line / kTurn) & kMask))) * kChunk;
  }

  /// Copies what lies at k from `first` on. kThreads threads share the work, of which this is one.
  template <int kThreads, bool kWide>
  static __device__ __forceinline__ void load(const Operand<T>& from, int first, T* to,
                                              int thread) {
    static_assert(kLines * kLine % kThreads == 0);
#pragma unroll
    for (int i = 0; i < kLines * kLine / kThreads; ++i) {
      const int line = (thread + i * kThreads) / kLine;
      const int chunk = (thread + i * kThreads) % kLine;
      T* const target = to + place(line, chunk);
      const int edge = kInner == Inner::kDepth ? line : chunk * kChunk;
      const int k = first + (kInner == Inner::kDepth ? chunk * kChunk : line);
      const T* const source =
          from.data + (kInner == Inner::kDepth ? edge * from.stride + k : k * from.stride + edge);
      if constexpr (kWide) {
        cp_async_16(target, source, edge < from.edge && k < from.depth);
      } else {
        copy_elements(source,
                      edge < from.edge && k < from.depth
                          ? (kInner == Inner::kDepth ? from.depth - k : from.edge - edge)
                          : 0,
                      target);
      }
    }
  }

 private:
  /// The first `count` elements of a chunk, and zeros.
  static __device__ __forceinline__ void copy_elements(const T* from, int count, T* to) {
    alignas(16) T values[kChunk];
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      values[i] = i < count ? from[i] : T{};
    }
    *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(values);
  }
};

}  // namespace moesaic::cuda
