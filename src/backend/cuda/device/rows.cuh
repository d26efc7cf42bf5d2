#pragma once

#include <cstdint>

#include "backend/cuda/device/launch.cuh"
#include "backend/cuda/device/vectors.cuh"
#include "backend/cuda/device/warp.cuh"

// Rows of a matrix, by teams of threads: a few lanes, a warp, or a block a row. A thread has the
// same columns whether they are moved as vectors or one by one, so that a row's sums have the same
// bits at every address.
namespace moesaic::cuda {

constexpr int kRowThreads = 256;  // of a block, or as many as a team has

/// The first n of eight elements; the others are zero. kVectors: there are eight, and aligned.
template <bool kVectors, class T>
__device__ __forceinline__ void load_eight(const T* from, int n, float (&to)[kVector]) {
  if constexpr (kVectors) {
    load_vector(from, to);
  } else {
#pragma unroll
    for (int j = 0; j < kVector; ++j) {
      to[j] = j < n ? load(from + j) : 0.0F;
    }
  }
}
template <bool kVectors, class T>
__device__ __forceinline__ void store_eight(T* to, int n, const float (&from)[kVector]) {
  if constexpr (kVectors) {
    store_vector(to, from);
  } else {
#pragma unroll
    for (int j = 0; j < kVector; ++j) {
      if (j < n) {
        store(to + j, from[j]);
      }
    }
  }
}

/// A team of kTeam threads, each with kChunks times eight columns of a row; kVectors: all rows are
/// whole aligned vectors.
template <int kTeam, int kChunks, bool kVectors>
struct RowTeam {
  static constexpr int kThreads = kTeam;
  static constexpr int kBlock = kTeam > kRowThreads ? kTeam : kRowThreads;
  static constexpr int kRows = kBlock / kTeam;             // of a block
  static constexpr int kSpan = kTeam * kChunks * kVector;  // columns of one load
  static constexpr bool kAligned = kVectors;
  using Values = float[kChunks][kVector];

  /// Of the block, for sums.
  using Shared = BlockScratch<float>;
  static constexpr std::size_t kSharedBytes = kTeam > kWarp ? sizeof(Shared) : 0;

  static __device__ __forceinline__ std::int64_t team() {
    return static_cast<std::int64_t>(blockIdx.x) * kRows + static_cast<int>(threadIdx.x) / kTeam;
  }
  static __device__ __forceinline__ int member() { return static_cast<int>(threadIdx.x) % kTeam; }
  static __device__ __forceinline__ int column(int chunk) {
    return (chunk * kTeam + member()) * kVector;
  }

  /// The thread's columns among `width` ones; zero beyond.
  template <class T>
  static __device__ __forceinline__ void load(const T* row, int width, Values& to) {
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      if (column(c) < width) {
        load_eight<kVectors>(row + column(c), width - column(c), to[c]);
      } else {
#pragma unroll
        for (int j = 0; j < kVector; ++j) {
          to[c][j] = 0.0F;
        }
      }
    }
  }
  template <class T>
  static __device__ __forceinline__ void store(T* row, int width, const Values& from) {
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      if (column(c) < width) {
        store_eight<kVectors>(row + column(c), width - column(c), from[c]);
      }
    }
  }
  /// Calls work(c, j) for each of the thread's columns.
  template <class Work>
  static __device__ __forceinline__ void each(const Work& work) {
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
#pragma unroll
      for (int j = 0; j < kVector; ++j) {
        work(c, j);
      }
    }
  }

  /// Over the team; every member gets it. All threads of the warp, or of the block if the team is
  /// one, call it.
  static __device__ __forceinline__ float sum(float value) {
    if constexpr (kTeam > kWarp) {
      return block_sum(value, shared<Shared>());
    } else {
#pragma unroll
      for (int distance = kTeam / 2; distance > 0; distance /= 2) {
        value += __shfl_xor_sync(kAllLanes, value, distance);
      }
      return value;
    }
  }
};

/// Blocks for so many teams, and with `columns` for each span of these (host).
template <class Team>
dim3 blocks_of(std::int64_t teams, std::int64_t columns = 1) {
  return {static_cast<unsigned>((teams + Team::kRows - 1) / Team::kRows),
          static_cast<unsigned>((columns + Team::kSpan - 1) / Team::kSpan)};
}

}  // namespace moesaic::cuda
