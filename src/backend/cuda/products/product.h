#pragma once

#include <cuda_runtime.h>

#include <cstdint>

// A matrix product as its kernels take it: c (M, N) = sum over k of a (M, k) b (k, N).
namespace moesaic::cuda {

/// Which index of an operand has its elements side by side in memory: k, or the row of c (of a) or
/// column of c (of b).
enum class Inner { kDepth, kEdge };

/// Where the groups of a grouped product lie.
enum class Groups {
  kNone,
  kRows,   // rows [offsets[g], offsets[g + 1]) of a and c go with part g of b
  kDepth,  // these rows are k, and make part g of c
};

struct Product {
  const void* a = nullptr;
  const void* b = nullptr;
  void* c = nullptr;
  std::int64_t a_stride = 0, b_stride = 0, c_stride = 0;  // elements from line to line
  std::int64_t part = 0;                  // elements from a group's part of b or c to the next
  const std::int32_t* offsets = nullptr;  // (count + 1)
  int count = 1;                          // of groups
  Groups groups = Groups::kNone;
  Inner a_inner = Inner::kDepth, b_inner = Inner::kDepth;
  int m = 0, n = 0, k = 0;  // m or k: of all groups, where they cut it
  bool wide = true;         // a and b allow 16 bytes at once
  bool pairs = true;        // c allows two elements at once
  bool add = false;         // to c, which is fp32 then
  bool narrow = false;      // c is bf16
};

/// How a product is cut into blocks, from few elements of c each to many. An element's bits do not
/// depend on it.
enum class Cut { kTiny, kSmall, kMedium, kLarge };

/// The cut that makes good use of so many multiprocessors.
Cut cut_of_bf16(const Product& product, int multiprocessors);
Cut cut_of_fp32(const Product& product, int multiprocessors);

/// Products of bf16 or fp32, in this cut or the next larger (else the next smaller) that there is.
void multiply_bf16(cudaStream_t stream, const Product& product, Cut cut);
void multiply_fp32(cudaStream_t stream, const Product& product, Cut cut);

/// The grid of blocks that make so many rows and columns of c each. How many tiles the rows of
/// groups have, the device alone knows: there is room for all that may be.
dim3 blocks_of(const Product& product, int rows, int columns);

}  // namespace moesaic::cuda
