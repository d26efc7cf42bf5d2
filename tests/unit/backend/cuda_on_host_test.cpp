// The emulation of CUDA itself: what its units compute, and that it finds the faults of kernels.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <functional>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "backend/cuda/device/launch.cuh"
#include "backend/cuda/device/numbers.cuh"
#include "backend/cuda/device/vectors.cuh"
#include "backend/cuda/device/warp.cuh"
#include "backend/cuda/stream.h"
#include "cuda_on_host/sanitizers.h"

namespace moesaic::cuda {
namespace {

constexpr int kRows = 16, kColumns = 8;  // of a product

class CudaOnHost : public ::testing::Test {
 protected:
  template <class... P, class... A>
  void start(void (*kernel)(P...), dim3 grid, dim3 block, std::size_t shared_bytes, A... args) {
    launch(stream_.get(), kernel, grid, block, shared_bytes, args...);
  }
  /// What a launch is refused or ended with; empty: nothing.
  template <class... P, class... A>
  std::string fault(void (*kernel)(P...), dim3 grid, dim3 block, std::size_t bytes, A... args) {
    try {
      start(kernel, grid, block, bytes, args...);
    } catch (const Error& error) {
      return error.what();
    }
    return {};
  }
  Stream stream_;
};

// Integers that bf16 holds, and whose products are exact.
int number(int row, int column) { return (row * 7 + column * 13) % 31 - 15; }

std::uint32_t pair_of(int low, int high) {
  return pack_bf16(static_cast<float>(low), static_cast<float>(high));
}

// The layouts as the PTX manual has them, element by element.
__global__ void product_by_elements(float* d) {
  const int g = lane_index() / 4;
  const int t = lane_index() % 4;
  std::uint32_t a[4], b[2];
  float sums[4];
  for (int i = 0; i < 8; i += 2) {
    const int row = i < 2 || (i >= 4 && i < 6) ? g : g + 8;
    const int column = t * 2 + (i < 4 ? 0 : 8);
    a[i / 2] = pair_of(number(row, column), number(row, column + 1));
  }
  for (int i = 0; i < 4; i += 2) {
    const int row = t * 2 + (i < 2 ? 0 : 8);
    b[i / 2] = pair_of(number(row + 50, g), number(row + 51, g));
  }
  for (int i = 0; i < 4; ++i) {
    sums[i] = static_cast<float>(i + lane_index());
  }
  mma_bf16(sums, a, b);
  for (int i = 0; i < 4; ++i) {
    const int row = i < 2 ? g : g + 8;
    d[row * kColumns + t * 2 + i % 2] = sums[i] - static_cast<float>(i + lane_index());
  }
}

// Protects the fragments of bf16 products.
TEST_F(CudaOnHost, ProductsOfBf16) {
  std::vector<float> d(kRows * kColumns);
  start(product_by_elements, 1, 32, 0, d.data());
  for (int row = 0; row < kRows; ++row) {
    for (int column = 0; column < kColumns; ++column) {
      int sum = 0;
      for (int k = 0; k < 16; ++k) {
        sum += number(row, k) * number(k + 50, column);
      }
      EXPECT_EQ(d[static_cast<std::size_t>(row * kColumns + column)], sum) << row << ' ' << column;
    }
  }
}

int signed_byte(int row, int column) { return (row * 37 + column * 11) % 256 - 128; }
int byte_of(bool with_sign, int row, int column) {
  return signed_byte(row, column) + (with_sign ? 0 : 128);
}

__global__ void product_of_bytes(std::int32_t* d, bool with_sign) {
  const int g = lane_index() / 4;
  const int t = lane_index() % 4;
  std::uint32_t a[4] = {}, b[2] = {};
  for (int i = 0; i < 16; ++i) {
    const int row = i < 4 || (i >= 8 && i < 12) ? g : g + 8;
    const int column = t * 4 + i % 4 + (i < 8 ? 0 : 16);
    a[i / 4] |= static_cast<std::uint32_t>(byte_of(with_sign, row, column) & 0xff) << i % 4 * 8;
  }
  for (int i = 0; i < 8; ++i) {
    const int row = t * 4 + i % 4 + (i < 4 ? 0 : 16);
    b[i / 4] |= static_cast<std::uint32_t>(signed_byte(row + 3, g) & 0xff) << i % 4 * 8;
  }
  std::int32_t sums[4] = {1, 2, 3, 4};
  if (with_sign) {
    mma_s8s8(sums, a, b);
  } else {
    mma_u8s8(sums, a, b);
  }
  for (int i = 0; i < 4; ++i) {
    d[(i < 2 ? g : g + 8) * kColumns + t * 2 + i % 2] = sums[i] - i - 1;
  }
}

// Protects the fragments of products of bytes.
TEST_F(CudaOnHost, ProductsOfBytes) {
  for (const bool with_sign : {false, true}) {
    std::vector<std::int32_t> d(kRows * kColumns);
    start(product_of_bytes, 1, 32, 0, d.data(), with_sign);
    for (int row = 0; row < kRows; ++row) {
      for (int column = 0; column < kColumns; ++column) {
        int sum = 0;
        for (int k = 0; k < 32; ++k) {
          sum += byte_of(with_sign, row, k) * signed_byte(k + 3, column);
        }
        EXPECT_EQ(d[static_cast<std::size_t>(row * kColumns + column)], sum);
      }
    }
  }
}

struct Tiles {
  BFloat16 a[kRows][16];     // rows of k
  BFloat16 b[kColumns][16];  // rows of k
  BFloat16 b_turned[16][kColumns];
  BFloat16 a_turned[16][kRows];
};

// The same product with both operands from shared memory, as they are or transposed.
__global__ void product_by_matrices(float* d, bool turned, int wrong) {
  auto& tiles = shared<Tiles>();
  const int lane = lane_index();
  for (int i = lane; i < 16 * 16; i += kWarp) {
    tiles.a[i / 16][i % 16] = to_bf16(static_cast<float>(number(i / 16, i % 16)));
    tiles.a_turned[i % 16][i / 16] = tiles.a[i / 16][i % 16];
  }
  for (int i = lane; i < 16 * 8; i += kWarp) {
    tiles.b[i / 16][i % 16] = to_bf16(static_cast<float>(number(i % 16 + 50, i / 16)));
    tiles.b_turned[i % 16][i / 16] = tiles.b[i / 16][i % 16];
  }
  __syncwarp();
  std::uint32_t a[4], b[2];
  float sums[4] = {};
  if (turned) {
    ldmatrix_x4_trans(a, &tiles.a_turned[lane % 8 + lane / 16 * 8][lane / 8 % 2 * 8]);
    ldmatrix_x2_trans(b, &tiles.b_turned[lane % 16][0]);
  } else {
    ldmatrix_x4(a, &tiles.a[lane % 16][(lane / 16 ^ wrong) * 8]);
    ldmatrix_x2(b, &tiles.b[lane % 8][lane / 8 % 2 * 8]);
  }
  mma_bf16(sums, a, b);
  for (int i = 0; i < 4; ++i) {
    d[(lane / 4 + i / 2 * 8) * kColumns + lane % 4 * 2 + i % 2] = sums[i];
  }
}

// Protects ldmatrix; a wrong address (of a swizzle, say) is a wrong product.
TEST_F(CudaOnHost, MatricesFromSharedMemory) {
  std::vector<float> expected(kRows * kColumns), d(kRows * kColumns);
  start(product_by_elements, 1, 32, 0, expected.data());
  for (const bool turned : {false, true}) {
    start(product_by_matrices, 1, 32, sizeof(Tiles), d.data(), turned, 0);
    EXPECT_EQ(d, expected) << turned;
  }
  start(product_by_matrices, 1, 32, sizeof(Tiles), d.data(), false, 1);
  EXPECT_NE(d, expected);
}

struct alignas(16) Ring {
  float stage[3][32][4];
};

// Sums 4 x 32 x steps numbers through a ring of two stages, one in flight.
__global__ void sum_by_copies(const float* x, int steps, int valid, float* y, bool waits) {
  auto& ring = shared<Ring>();
  const int lane = lane_index();
  float sum = 0.0F;
  const auto begin = [&](int step) {
    if (step < steps) {
      const int at = (step * kWarp + lane) * 4;
      cp_async_16(ring.stage[step % 3][lane], x + at, at < valid);
    }
    cp_async_commit();
  };
  begin(0);
  begin(1);
  for (int step = 0; step < steps; ++step) {
    if (waits) {
      cp_async_wait<1>();
    }
    __syncwarp();
    for (int i = 0; i < 4; ++i) {
      sum += ring.stage[step % 3][(lane + 1) % kWarp][i];
    }
    begin(step + 2);
  }
  sum = warp_sum(sum);
  if (lane == 0) {
    *y = sum;
  }
}

// Protects copies: complete behind the wait, zeros where not valid, gone without a wait.
TEST_F(CudaOnHost, Copies) {
  constexpr int kSteps = 5, kAll = kSteps * 128;
  alignas(16) static std::array<float, kAll> x;
  std::iota(x.begin(), x.end(), 0.0F);
  float y = 0.0F;
  start(sum_by_copies, 1, 32, sizeof(Ring), x.data(), kSteps, kAll, &y, true);
  EXPECT_EQ(y, kAll * (kAll - 1) / 2);
  start(sum_by_copies, 1, 32, sizeof(Ring), x.data(), kSteps, 200, &y, true);
  EXPECT_EQ(y, 200 * 199 / 2);
  start(sum_by_copies, 1, 32, sizeof(Ring), x.data(), kSteps, kAll, &y, false);
  EXPECT_TRUE(std::isnan(y));
  EXPECT_NE(fault(sum_by_copies, 1, 32, sizeof(Ring), x.data() + 1, kSteps, kAll, &y, true)
                .find("border of 16 bytes"),
            std::string::npos);
}

__global__ void warp_calls(int* out) {
  const int lane = lane_index();
  int* const my = out + lane * 10;
  my[0] = __shfl_sync(kAllLanes, lane, lane + 1, 8);
  my[1] = __shfl_up_sync(kAllLanes, lane, 3);
  my[2] = __shfl_down_sync(kAllLanes, lane, 3);
  my[3] = static_cast<int>(__ballot_sync(kAllLanes, lane % 3 == 0));
  my[4] = __any_sync(kAllLanes, lane == 40) + 2 * __all_sync(kAllLanes, lane < 32);
  my[5] = static_cast<int>(__match_any_sync(kAllLanes, lane % 4));
  my[6] = __reduce_add_sync(kAllLanes, -lane);
  // Two masks at the same time.
  const unsigned half = lane < 16 ? 0xffffU : 0xffff0000U;
  my[7] = __shfl_xor_sync(half, lane, 15);
  my[8] = static_cast<int>(warp_max(static_cast<float>(-lane)));
  my[9] = __reduce_max_sync(kAllLanes, -lane - 5);
}

// Protects shuffles and votes.
TEST_F(CudaOnHost, WarpCalls) {
  std::vector<int> out(320);
  start(warp_calls, 1, 32, 0, out.data());
  for (int lane = 0; lane < 32; ++lane) {
    const int* const my = out.data() + lane * 10;
    EXPECT_EQ(my[0], lane / 8 * 8 + (lane + 1) % 8);
    EXPECT_EQ(my[1], lane < 3 ? lane : lane - 3);
    EXPECT_EQ(my[2], lane > 28 ? lane : lane + 3);
    EXPECT_EQ(my[3], 0x49249249);
    EXPECT_EQ(my[4], 2);
    EXPECT_EQ(static_cast<unsigned>(my[5]), 0x11111111U << static_cast<unsigned>(lane % 4));
    EXPECT_EQ(my[6], -496);
    EXPECT_EQ(my[7], lane ^ 15);
    EXPECT_EQ(my[8], 0);
    EXPECT_EQ(my[9], -5);
  }
}

struct SumShared {
  BlockScratch<float> scratch;
  float values[256];
};

__global__ void block_sums(float* out, int* order, int* count) {
  auto& s = shared<SumShared>();
  order[blockIdx.x * blockDim.x + threadIdx.x] = atomicAdd(count, 1);
  const float first = block_sum(static_cast<float>(threadIdx.x), s.scratch);
  out[blockIdx.x] = first + block_max(static_cast<float>(threadIdx.x), s.scratch);
}

// Protects: threads and blocks run in an order that changes.
TEST_F(CudaOnHost, RandomOrders) {
  std::vector<float> out(40);
  std::set<std::vector<int>> orders;
  for (int i = 0; i < 3; ++i) {
    std::vector<int> order(40 * 256);
    int count = 0;
    start(block_sums, 40, 256, sizeof(SumShared), out.data(), order.data(), &count);
    EXPECT_EQ(out, std::vector<float>(40, 255.0F * 128 + 255));
    orders.insert(order);
    EXPECT_FALSE(std::is_sorted(order.begin(), order.begin() + 256));
  }
  EXPECT_EQ(orders.size(), 3U);
}

// Faults that tests of kernels must find. Which: 0 none.
enum Fault {
  kNone,
  kNoBarrier,
  kStale,
  kEarlyReturn,
  kDivergentShuffle,
  kOtherBarrier,
  kNotInMask,
  kOutsideOfMask,
  kBehind,
  kMoreShared,
};

__global__ void faulty(float* y, int which) {
  auto& s = shared<SumShared>();
  const auto i = static_cast<int>(threadIdx.x);
  if (which == kEarlyReturn && i == 70) {
    return;
  }
  if (which != kStale || blockIdx.x == 0) {
    s.values[i] = static_cast<float>(i);
  }
  if (which == kOtherBarrier && i < 32) {
    __syncthreads();
  } else if (which != kNoBarrier) {
    __syncthreads();
  }
  float value = s.values[(i + 77) % 256];
  if (which != kDivergentShuffle || i != 5) {
    const unsigned mask = which == kNotInMask || which == kOutsideOfMask ? 0xffffU : kAllLanes;
    if (which != kOutsideOfMask || i % 32 < 16) {
      value += __shfl_xor_sync(mask, value, which == kOutsideOfMask ? 16 : 1);
    }
  }
  if (which == kBehind && i == 0) {
    (&s.values[255])[3] = 1.0F;
  }
  if (which == kMoreShared) {
    value += shared<std::array<SumShared, 2>>()[1].values[0];
  }
  y[blockIdx.x * 256 + threadIdx.x] = value;
}

bool has_nan(const std::vector<float>& values) {
  return std::any_of(values.begin(), values.end(), [](float v) { return std::isnan(v); });
}

// Protects: what a GPU would do wrong now and then is found here at once.
TEST_F(CudaOnHost, FindsFaults) {
  std::vector<float> y(512);
  const auto run = [&](Fault which) {
    return fault(faulty, 2, 256, sizeof(SumShared), y.data(), static_cast<int>(which));
  };
  const auto expect = [&](Fault which, const std::string& words) {
    const std::string what = run(which);
    EXPECT_NE(what.find(words), std::string::npos) << what;
    EXPECT_NE(what.find("cuda_on_host_test.cpp:"), std::string::npos) << what;
  };
  EXPECT_EQ(run(kNone), "");
  EXPECT_FALSE(has_nan(y));
  EXPECT_EQ(run(kNoBarrier), "");
  EXPECT_TRUE(has_nan(y));
  EXPECT_EQ(run(kStale), "");
  EXPECT_TRUE(has_nan(y));
  expect(kEarlyReturn, "hangs: 1 threads have returned");
  expect(kDivergentShuffle, "hangs: 225 threads have returned, 31 wait in __shfl_xor_sync");
  expect(kOtherBarrier, "while others wait in __syncthreads");
  expect(kNotInMask, "is not in its own mask 0000ffff of __shfl_xor_sync");
  expect(kOutsideOfMask, "a shuffle reads a lane that is not in its mask");
  expect(kMoreShared, "bytes of shared memory, but was launched with");
  if (!cuda_on_host::kWithAsan) {  // which ends the program
    expect(kBehind, "writes behind its shared memory");
  }
  EXPECT_EQ(run(kNone), "");  // stacks and barriers are clean again
}

// Protects: what CUDA refuses to start.
TEST_F(CudaOnHost, RefusesLaunches) {
  std::vector<float> y(512);
  const auto refused = [&](dim3 grid, dim3 block, std::size_t bytes) {
    return !fault(faulty, grid, block, bytes, y.data(), 0).empty();
  };
  EXPECT_TRUE(refused(1, 1025, sizeof(SumShared)));
  EXPECT_TRUE(refused(dim3(1, 65536), 256, sizeof(SumShared)));
  EXPECT_TRUE(refused(1, 256, std::size_t{164} * 1024));
  EXPECT_FALSE(refused(1, 256, std::size_t{163} * 1024));
  EXPECT_FALSE(refused(0, 256, sizeof(SumShared)));
}

__global__ void numbers(const float* x, float* y, BFloat16* z) {
  float values[kVector];
  load_vector(x, values);
  store_vector(z, values);
  load_vector(z, values);
  store_vector(y, values);
}

// Protects the rounding to bf16: as the host's, but for the bits of NaN.
TEST_F(CudaOnHost, Numbers) {
  alignas(16) std::array<float, 8> x = {1.0F, 1.00390625F, 1.01171875F, -3.4e38F,
                                        0.0F, 1e-40F,      INFINITY,    1.7F};
  alignas(16) std::array<float, 8> y;
  alignas(16) std::array<BFloat16, 8> z;
  start(numbers, 1, 1, 0, x.data(), y.data(), z.data());
  for (std::size_t i = 0; i < 8; ++i) {
    EXPECT_EQ(z[i].bits, BFloat16(x[i]).bits);
    EXPECT_EQ(y[i], static_cast<float>(BFloat16(x[i])));
  }
  EXPECT_TRUE(std::isnan(__uint_as_float(unsigned{round_to_bf16(NAN)} << 16U)));
}

}  // namespace
}  // namespace moesaic::cuda
