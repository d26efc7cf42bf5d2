// Protects packed weights: their formats, and products with them on every instruction set.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "backend/cpu/cpu_backend.h"
#include "reference/matmul.h"
#include "reference/quantized.h"
#include "unit/backend/kernel_test.h"

namespace moesaic::testing {
namespace {

constexpr DType kFormats[] = {DType::kBf16, DType::kInt8, DType::kInt4};
constexpr std::int64_t kBlock = 256;

Vector constant(std::int64_t count, double value) {
  return Vector(static_cast<std::size_t>(count), value);
}

double square_sum(const Vector& v) {
  double total = 0.0;
  for (const double value : v) {
    total += value * value;
  }
  return total;
}

class PackedKernels : public KernelTest {
 protected:
  PackedWeights pack(DType format, const Vector& w, const Shape& shape,
                     const Vector& mean_squares = {}) const {
    return backend().pack(
        format, upload(w, shape),
        mean_squares.empty() ? Tensor() : upload(mean_squares, {std::ssize(mean_squares)}));
  }
  Vector unpack(const PackedWeights& w) const {
    const Tensor out = poisoned({w.groups, w.rows, w.columns});
    backend().unpack(w, out);
    return download(out);
  }
  Vector multiply(const Vector& x, const Indices& offsets, const PackedWeights& w,
                  DType out) const {
    const Tensor y = poisoned({offsets.back(), w.rows}, out);
    backend().packed_matmul(upload(x, {offsets.back(), w.columns}, compute()),
                            upload_offsets(offsets), w, y, {});
    return download(y);
  }
  std::string error_of(DType format, const Vector& w, const Shape& shape,
                       const Vector& mean_squares = {}) const {
    try {
      pack(format, w, shape, mean_squares);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Exit::kBadData);
      return error.what();
    }
    return "";
  }
};

// Rows of x as the format has them.
Vector as_numbers(DType format, const Vector& x, std::int64_t columns) {
  if (format != DType::kBf16) {
    return reference::rounded_rows(x, columns, kBlock);
  }
  Vector rounded;
  for (const double value : x) {
    rounded.push_back(static_cast<float>(BFloat16(to_float(value))));
  }
  return rounded;
}

// Groups of every height of a tile, of several tiles, and without rows; odd widths and depths.
TEST_P(PackedKernels, MatchTheReference) {
  struct Problem {
    Indices offsets;
    std::int64_t n, k;
  };
  const Problem problems[] = {{{0, 1, 1, 3, 6}, 70, 300},
                              {{0, 0, 5, 11}, 17, 64},
                              {{0, 17, 46, 46, 103}, 33, 515},
                              {{0, 7, 15, 24, 37}, 129, 37},
                              {{0, 4}, 1, 1},
                              {{0, 0}, 5, 70},
                              {{0, 3}, 4, 0},
                              {{0, 3}, 0, 70},
                              {{0, 200}, 48, 256},
                              {{0, 130}, 40, 5200}};  // of rows that fill the cache several times
  for (const DType format : kFormats) {
    for (const Problem& problem : problems) {
      const auto groups = std::ssize(problem.offsets) - 1;
      const std::int64_t rows = problem.offsets.back();
      const Vector x = random({rows, problem.k}, "x", compute());
      const PackedWeights w =
          pack(format, random({groups, problem.n, problem.k}, "w"), {groups, problem.n, problem.k});
      const Vector expected = reference::grouped_matmul(
          as_numbers(format, x, problem.k), problem.offsets, unpack(w), problem.n, problem.k);
      for (const DType out : {DType::kF32, compute()}) {
        expect_close(multiply(x, problem.offsets, w, out), expected, tolerance_of(out),
                     fmt::format("{} ({}, {}, {}) into {}", name_of(format), rows, problem.n,
                                 problem.k, name_of(out)));
      }
    }
  }
}

// A token's result may not depend on what else is in the batch: the same bits in tiles of all
// heights, and by threads of any number.
TEST_P(PackedKernels, ARowHasTheSameBitsInEveryTile) {
  constexpr std::int64_t kRows = 31, kN = 150, kK = 530;
  const Vector x = random({kRows, kK}, "x", compute());
  for (const DType format : kFormats) {
    const PackedWeights w = pack(format, random({1, kN, kK}, "w"), {1, kN, kK});
    const Vector all = multiply(x, {0, kRows}, w, DType::kF32);
    for (std::int64_t count = 1; count < kRows; ++count) {
      const std::int64_t begin = kRows - count;
      EXPECT_EQ(multiply(Vector(x.begin() + begin * kK, x.end()), {0, count}, w, DType::kF32),
                Vector(all.begin() + begin * kN, all.end()))
          << name_of(format) << ", " << count << " rows";
    }
  }
}

TEST_P(PackedKernels, ThreadsChangeNoBit) {
  if (std::get<Engine>(GetParam()) == Engine::kCuda) {
    GTEST_SKIP() << "no threads of the host";
  }
  constexpr std::int64_t kN = 200, kK = 100;
  const Indices offsets = {0, 1, 1, 20, 22};
  const Vector x = random({offsets.back(), kK}, "x", compute());
  for (const DType format : kFormats) {
    const PackedWeights w = pack(format, random({4, kN, kK}, "w"), {4, kN, kK});
    const Vector expected = multiply(x, offsets, w, DType::kF32);
    for (const int threads : {1, 3, 7}) {
      cpu::CpuBackend other(threads, set_of(std::get<Engine>(GetParam())));
      const Tensor y = poisoned({offsets.back(), kN});
      other.packed_matmul(upload(x, {offsets.back(), kK}, compute()), upload_offsets(offsets), w, y,
                          {});
      EXPECT_EQ(download(y), expected) << name_of(format) << ", " << threads << " threads";
    }
  }
}

// Nodes of several kinds may share a job and its packed files. (CUDA: packed_bits_test.cpp.)
TEST_P(PackedKernels, IntegersHaveTheSameBitsOnEveryInstructionSet) {
  if (std::get<Engine>(GetParam()) == Engine::kCuda) {
    GTEST_SKIP() << "another order in memory";
  }
  constexpr std::int64_t kN = 75, kK = 600;
  const Indices offsets = {0, 2, 19};
  const Tensor x =
      upload(random({offsets.back(), kK}, "x", compute()), {offsets.back(), kK}, compute());
  const Tensor from = upload(random({2, kN, kK}, "w"), {2, kN, kK});
  if (!cpu::avx2_is_usable()) {
    GTEST_SKIP() << "this processor has no AVX2 with FMA";
  }
  cpu::CpuBackend avx2(1, cpu::avx2_kernels());
  for (const DType format : {DType::kInt8, DType::kInt4}) {
    const Tensor y = poisoned({offsets.back(), kN});
    const Tensor other = poisoned({offsets.back(), kN});
    const PackedWeights w = backend().pack(format, from, {});
    const PackedWeights others = avx2.pack(format, from, {});
    EXPECT_EQ(download_indices(w.words), download_indices(others.words)) << name_of(format);
    backend().packed_matmul(x, upload_offsets(offsets), w, y, {});
    avx2.packed_matmul(x, upload_offsets(offsets), others, other, {});
    EXPECT_EQ(download(y), download(other)) << name_of(format);
  }
}

// Sums of two products of bytes do not fit 16 bits: 2 x 255 x 127.
TEST_P(PackedKernels, TheLargestProductsAreNotCutOff) {
  constexpr std::int64_t kN = 20, kK = 512;
  for (const std::int64_t rows : {1, 9}) {
    for (const double sign : {1.0, -1.0}) {
      const PackedWeights w = pack(DType::kInt8, constant(kN * kK, sign), {1, kN, kK});
      expect_close(multiply(constant(rows * kK, 1.0), {0, rows}, w, DType::kF32),
                   constant(rows * kN, sign * kK), 1e-6, "y");
    }
  }
}

TEST_P(PackedKernels, ZerosAndNumbersThatAreNotFinite) {
  constexpr std::int64_t kN = 18, kK = 300;
  for (const DType format : kFormats) {
    const PackedWeights zero = pack(format, constant(kN * kK, 0.0), {1, kN, kK});
    EXPECT_EQ(unpack(zero), constant(kN * kK, 0.0));
    EXPECT_EQ(multiply(random({2, kK}, "x", compute()), {0, 2}, zero, DType::kF32),
              constant(2 * kN, 0.0));
    const PackedWeights w = pack(format, random({1, kN, kK}, "w"), {1, kN, kK});
    Vector x = constant(3 * kK, 0.0);
    x[kK + 280] = std::numeric_limits<double>::quiet_NaN();
    x[2 * kK] = std::numeric_limits<double>::infinity();
    const Vector y = multiply(x, {0, 3}, w, DType::kF32);
    for (std::int64_t j = 0; j < kN; ++j) {
      EXPECT_EQ(y[static_cast<std::size_t>(j)], 0.0) << name_of(format);
      EXPECT_TRUE(std::isnan(y[static_cast<std::size_t>(kN + j)])) << name_of(format);
      EXPECT_FALSE(std::isfinite(y[static_cast<std::size_t>(2 * kN + j)])) << name_of(format);
    }
  }
}

Vector columns_of(const Vector& matrix, std::int64_t width, Slice columns) {
  Vector part;
  for (std::int64_t at = 0; at < std::ssize(matrix); at += width) {
    const auto row = matrix.begin() + at + columns.begin;
    part.insert(part.end(), row, row + columns.count);
  }
  return part;
}

// Ranks that share out the columns of w and x, also through blocks with one scale: their terms add
// up to what one rank has, so that the layout changes sums in floats alone.
TEST_P(PackedKernels, PartsOfTheColumnsAddUpToTheWhole) {
  constexpr std::int64_t kN = 35, kRows = 11;
  for (const auto& split :
       {std::pair<std::int64_t, int>{40, 2}, {600, 4}, {515, 3}, {768, 2}, {1024, 4}, {3, 5}}) {
    const std::int64_t whole = split.first;
    const int ranks = split.second;
    const Vector w = random({1, kN, whole}, "w");
    const Vector x = random({kRows, whole}, "x", compute());
    const Shape peaks_shape{kRows, packed_blocks(whole)};
    Indices most(static_cast<std::size_t>(peaks_shape.numel()), 0);
    const auto of_rank = [&](int rank) {
      const Slice own = share_of(whole, rank, ranks);
      return ColumnSlice{own.begin, own.count, whole};
    };
    const auto x_of = [&](const ColumnSlice& part) {
      return upload(columns_of(x, whole, {part.begin, part.count}), {kRows, part.count}, compute());
    };
    for (int rank = 0; rank < ranks; ++rank) {
      const Tensor own = backend().empty(DType::kI32, peaks_shape);
      backend().block_peaks(x_of(of_rank(rank)), of_rank(rank), own);
      const Indices these = download_indices(own);
      std::transform(most.begin(), most.end(), these.begin(), most.begin(),
                     [](std::int64_t a, std::int64_t b) { return std::max(a, b); });
    }
    const Tensor peaks = upload(most, peaks_shape);
    for (const DType format : {DType::kInt8, DType::kInt4}) {
      Vector sum = constant(kRows * kN, 0.0);
      const PackedWeights all = pack(format, w, {1, kN, whole});
      for (int rank = 0; rank < ranks; ++rank) {
        const ColumnSlice part = of_rank(rank);
        const Slice blocks = part.blocks();
        PackedWeights own = pack(format, columns_of(w, whole, blocks), {1, kN, blocks.count});
        EXPECT_EQ(unpack(own), columns_of(unpack(all), whole, blocks));
        own.slice = part;
        const Tensor y = poisoned({kRows, kN});
        backend().packed_matmul(x_of(part), {}, own, y, peaks);
        const Vector term = download(y);
        std::transform(sum.begin(), sum.end(), term.begin(), sum.begin(), std::plus<>());
      }
      expect_close(sum, multiply(x, {0, kRows}, all, DType::kF32), 2e-6,
                   fmt::format("{}, {} columns over {} ranks", name_of(format), whole, ranks));
    }
  }
}

TEST(ColumnSlice, KnowsItsBlocks) {
  const ColumnSlice middle{300, 300, 1200};
  EXPECT_EQ(middle.blocks().begin, 256);
  EXPECT_EQ(middle.blocks().count, 512);
  EXPECT_EQ(middle.before(), 44);
  const ColumnSlice last{900, 300, 1200};
  EXPECT_EQ(last.blocks().begin, 768);
  EXPECT_EQ(last.blocks().count, 432);
  // All ranks must answer alike, as they agree on the largest values or not.
  for (const ColumnSlice& part : {ColumnSlice{0, 128, 640}, ColumnSlice{512, 128, 640}}) {
    EXPECT_TRUE(part.shares_blocks(5));
  }
  EXPECT_FALSE((ColumnSlice{256, 256, 1024}.shares_blocks(4)));
  EXPECT_FALSE((ColumnSlice{0, 640, 640}.shares_blocks(5)));  // the others have all of them, too
}

INSTANTIATE_TEST_SUITE_P(Backends, PackedKernels, packed_cases(), case_name);

class PackedFormats : public PackedKernels {};

// How much of a normal weight each format keeps; formats that got worse are found here.
TEST_P(PackedFormats, KeepNormalWeights) {
  const Vector w = random({1, 64, 1024}, "w");
  const auto error_of_format = [&](DType format) {
    const Vector there = unpack(pack(format, w, {1, 64, 1024}));
    Vector error = w;
    for (std::size_t i = 0; i < w.size(); ++i) {
      error[i] -= there[i];
    }
    return std::sqrt(square_sum(error) / square_sum(w));
  };
  EXPECT_NEAR(error_of_format(DType::kBf16), 0.0017, 0.0001);
  EXPECT_NEAR(error_of_format(DType::kInt8), 0.0070, 0.0002);
  EXPECT_NEAR(error_of_format(DType::kInt4), 0.0737, 0.0008);
}

// What a format can hold comes back exactly, so that packing twice changes nothing.
TEST_P(PackedFormats, HoldTheirOwnNumbers) {
  constexpr std::int64_t kN = 19, kK = 330;
  Vector levels;
  for (std::int64_t i = 0; i < kN * kK; ++i) {
    // Both ends of the range in each group, 127 being that of eight bits.
    const std::int64_t k = i % kK % 32;
    const std::int64_t q = k == 0 ? 15 : k == 1 ? 0 : i * 7 % 16;
    levels.push_back(0.25 * static_cast<double>(16 * q - 113));
  }
  const Vector narrow = unpack(pack(DType::kInt4, levels, {1, kN, kK}));
  EXPECT_EQ(unpack(pack(DType::kInt8, levels, {1, kN, kK})), levels);
  EXPECT_EQ(narrow, levels);
  EXPECT_EQ(unpack(pack(DType::kBf16, levels, {1, kN, kK})), levels);
}

// Four bits are spent where the activations are large.
TEST_P(PackedFormats, ImportantColumnsKeepMore) {
  constexpr std::int64_t kN = 16, kK = 256;
  const Vector w = random({1, kN, kK}, "w");
  Vector mean_squares;
  for (std::int64_t k = 0; k < kK; ++k) {
    mean_squares.push_back(k % 5 == 0 ? 50.0 : k % 7 == 0 ? 0.0 : 1.0);
  }
  const auto weighted_error = [&](const Vector& there) {
    double total = 0.0;
    for (std::size_t i = 0; i < w.size(); ++i) {
      total += mean_squares[i % kK] * (w[i] - there[i]) * (w[i] - there[i]);
    }
    return total;
  };
  const double plain = weighted_error(unpack(pack(DType::kInt4, w, {1, kN, kK})));
  const double weighted = weighted_error(unpack(pack(DType::kInt4, w, {1, kN, kK}, mean_squares)));
  EXPECT_LT(weighted, 0.8 * plain);
  EXPECT_EQ(unpack(pack(DType::kInt4, w, {1, kN, kK}, constant(kK, 0.0))),
            unpack(pack(DType::kInt4, w, {1, kN, kK})));
}

TEST_P(PackedFormats, EachGroupHasItsImportance) {
  constexpr std::int64_t kN = 4, kK = 64;
  const Vector w = random({2, kN, kK}, "w");
  Vector mean_squares = constant(2 * kK, 1.0);
  for (std::int64_t k = 0; k < kK; k += 3) {
    mean_squares[static_cast<std::size_t>(kK + k)] = 30.0;
  }
  const Vector both = unpack(pack(DType::kInt4, w, {2, kN, kK}, mean_squares));
  const auto half = [&](const Vector& v, std::int64_t g) {
    return Vector(v.begin() + g * std::ssize(v) / 2, v.begin() + (g + 1) * std::ssize(v) / 2);
  };
  for (const std::int64_t g : {0, 1}) {
    EXPECT_EQ(half(both, g),
              unpack(pack(DType::kInt4, half(w, g), {1, kN, kK}, half(mean_squares, g))));
  }
}

TEST_P(PackedFormats, NameNumbersThatCannotBePacked) {
  constexpr std::int64_t kN = 20, kK = 70;
  for (const DType format : kFormats) {
    for (const double value :
         {std::numeric_limits<double>::quiet_NaN(), -std::numeric_limits<double>::infinity()}) {
      Vector w = random({2, kN, kK}, "w");
      w[kN * kK + 17 * kK + 3] = value;
      w[kN * kK + 18 * kK] = value;
      const std::string message = error_of(format, w, {2, kN, kK});
      EXPECT_NE(message.find("row 17, column 3 of group 1"), std::string::npos) << message;
    }
  }
  Vector mean_squares = constant(kK, 1.0);
  mean_squares[5] = -1.0;
  const Vector w = random({1, kN, kK}, "w");
  const std::string message = error_of(DType::kInt4, w, {1, kN, kK}, mean_squares);
  EXPECT_NE(message.find("column 5"), std::string::npos) << message;
}

// Numbers near the ends of what a float holds.
TEST_P(PackedFormats, SurviveExtremeSizes) {
  constexpr std::int64_t kN = 3, kK = 40;
  for (const DType format : kFormats) {
    for (const double size : {1e-44, 1e-38, 1e-30, 1e30, 1e38}) {
      Vector w = random({1, kN, kK}, "w");
      for (double& value : w) {
        value = static_cast<double>(to_float(std::clamp(value, -3.0, 3.0) * size));
      }
      for (const double value : unpack(pack(format, w, {1, kN, kK}))) {
        EXPECT_LE(std::abs(value), 3.1 * size + 1e-43) << name_of(format) << " at " << size;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, PackedFormats,
                         ::testing::Values(KernelCase(Engine::kPortable, DType::kF32),
                                           KernelCase(Engine::kCuda, DType::kF32)),
                         case_name);

}  // namespace
}  // namespace moesaic::testing
