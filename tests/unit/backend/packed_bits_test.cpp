// Protects: codes and products of quantized weights are the same on every engine, CUDA among them.
// Ranks of a job may run on several kinds, and a file that one has packed is read by the other.
#include <fmt/format.h>

#include <cmath>

#include "backend/cpu/cpu_backend.h"
#include "tensor/quantized.h"
#include "unit/backend/kernel_test.h"

namespace moesaic::testing {
namespace {

constexpr DType kFormats[] = {DType::kInt8, DType::kInt4};

struct Size {
  std::int64_t rows, columns;
};
// Less and more than a panel, a unit and a block.
constexpr Size kSizes[] = {{1, 1}, {16, 256}, {17, 64}, {33, 515}, {5, 289}};

template <class T>
Tensor put(Backend& backend, const std::vector<T>& values, const Shape& shape) {
  Tensor tensor = backend.empty(dtype_of<T>(), shape);
  backend.upload(std::as_bytes(std::span(values)), tensor);
  return tensor;
}

std::vector<std::byte> bytes_of(Backend& backend, const Tensor& tensor) {
  std::vector<std::byte> bytes(tensor.bytes());
  backend.download(tensor, bytes);
  return bytes;
}

std::vector<float> floats(const Vector& values) { return {values.begin(), values.end()}; }

void expect_same_codes(const QuantizedRows& a, const QuantizedRows& b, const std::string& what) {
  EXPECT_EQ(a.scales, b.scales) << what;
  EXPECT_EQ(a.steps, b.steps) << what;
  EXPECT_EQ(a.codes, b.codes) << what;
}

class PackedBits : public KernelTest {
 protected:
  // w (G, N, K) on the engine and on the plainest one.
  struct Both {
    PackedWeights here, there;
  };
  Both pack(DType format, const Shape& shape, const Vector& mean_squares = {}) const {
    const std::vector<float> w = floats(random({shape.numel()}, "w"));
    return {pack_on(backend(), format, w, shape, mean_squares),
            pack_on(plain_, format, w, shape, mean_squares)};
  }
  static PackedWeights pack_on(Backend& backend, DType format, const std::vector<float>& w,
                               const Shape& shape, const Vector& mean_squares) {
    return backend.pack(format, put(backend, w, shape),
                        mean_squares.empty()
                            ? Tensor()
                            : put(backend, floats(mean_squares), Shape{std::ssize(mean_squares)}));
  }

  // x in the compute dtype, which holds it.
  Tensor rows_on(Backend& backend, const Vector& x, const Shape& shape) const {
    if (compute() == DType::kF32) {
      return put(backend, floats(x), shape);
    }
    std::vector<BFloat16> narrow;
    for (const double value : x) {
      narrow.emplace_back(to_float(value));
    }
    return put(backend, narrow, shape);
  }

  // A product whose rows outside of the offsets are left alone, and so are NaN.
  std::vector<std::byte> product_on(Backend& backend, const Vector& x, std::int64_t rows,
                                    const Indices& offsets, const PackedWeights& w,
                                    const Tensor& peaks = {}) const {
    const Tensor y = put(backend, std::vector<float>(static_cast<std::size_t>(rows * w.rows), NAN),
                         {rows, w.rows});
    Tensor ends;
    if (!offsets.empty()) {
      ends = put(backend, std::vector<std::int32_t>(offsets.begin(), offsets.end()),
                 {std::ssize(offsets)});
    }
    backend.packed_matmul(rows_on(backend, x, {rows, w.slice.count}), ends, w, y, peaks);
    return bytes_of(backend, y);
  }
  Tensor peaks_on(Backend& backend, const Vector& x, const ColumnSlice& slice,
                  std::int64_t rows) const {
    const Tensor peaks = backend.empty(DType::kI32, {rows, packed_blocks(slice.whole)});
    backend.block_peaks(rows_on(backend, x, {rows, slice.count}), slice, peaks);
    return peaks;
  }
  void expect_same_products(const Both& w, std::int64_t rows, const Indices& offsets) const {
    const Vector x = random({rows, w.here.columns}, "x", compute());
    EXPECT_TRUE(product_on(backend(), x, rows, offsets, w.here) ==
                product_on(plain_, x, rows, offsets, w.there))
        << fmt::format("{}: {} rows, {} groups of ({}, {})", name_of(w.here.format), rows,
                       w.here.groups, w.here.rows, w.here.columns);
  }

  mutable cpu::CpuBackend plain_{1, cpu::portable_kernels()};
};

TEST_P(PackedBits, CodesAndWhatTheyStandFor) {
  for (const DType format : kFormats) {
    for (const Size& size : kSizes) {
      const Shape shape{1, size.rows, size.columns};
      Vector mean_squares;
      for (const double value : random({size.columns}, "mean squares")) {
        mean_squares.push_back(value * value);
      }
      for (const Vector& weights : {Vector(), mean_squares}) {
        const std::string what = fmt::format("{} {}", name_of(format), shape.text());
        const Both w = pack(format, shape, weights);
        expect_same_codes(backend().codes_of(w.here), plain_.codes_of(w.there), what);
        const Tensor here = backend().empty(DType::kF32, shape);
        const Tensor there = plain_.empty(DType::kF32, shape);
        backend().unpack(w.here, here);
        plain_.unpack(w.there, there);
        EXPECT_EQ(bytes_of(backend(), here), bytes_of(plain_, there)) << what;
      }
    }
  }
}

// Rows of several tensors lie in one group, as gate and up do; and groups in one weight.
TEST_P(PackedBits, CodesOfFiles) {
  constexpr std::int64_t kRows = 37, kFirst = 11;
  for (const DType format : kFormats) {
    for (const std::int64_t columns : {64, 289, 515}) {
      const std::string what = fmt::format("{}, {} columns", name_of(format), columns);
      const Both w = pack(format, {1, kRows, columns});
      const QuantizedRows all = plain_.codes_of(w.there);
      std::vector<QuantizedRows> parts;
      for (const Slice rows : {Slice{0, kFirst}, Slice{kFirst, 0}, Slice{kFirst, kRows - kFirst}}) {
        parts.push_back(QuantizedRows::zeros(format, rows.count, columns));
        copy_rows(all, rows.begin, 0, rows.count, parts.back(), 0, 0);
      }
      const PackedWeights loaded = backend().load_codes({1, kRows, columns}, parts);
      expect_same_codes(backend().codes_of(loaded), all, what);
      const Vector x = random({3, columns}, "x", compute());
      EXPECT_EQ(product_on(backend(), x, 3, {}, loaded), product_on(plain_, x, 3, {}, w.there))
          << what;

      const std::vector<QuantizedRows> two = {all, QuantizedRows::zeros(format, kRows, columns),
                                              all};
      const Indices offsets = {0, 1, 2, 3};
      EXPECT_EQ(
          product_on(backend(), x, 3, offsets, backend().load_codes({3, kRows, columns}, two)),
          product_on(plain_, x, 3, offsets, plain_.load_codes({3, kRows, columns}, two)))
          << what;
    }
  }
}

TEST_P(PackedBits, ProductsOfAnyNumberOfRows) {
  for (const DType format : kFormats) {
    const Both w = pack(format, {1, 19, 325});
    for (std::int64_t rows = 0; rows <= 70; ++rows) {
      expect_same_products(w, rows, {});
    }
  }
}

TEST_P(PackedBits, ProductsOfAnySize) {
  for (const DType format : kFormats) {
    for (const auto& [rows, n, k] : {std::tuple<std::int64_t, std::int64_t, std::int64_t>{4, 1, 1},
                                     {3, 4, 0},
                                     {3, 0, 70},
                                     {65, 300, 64},
                                     {9, 17, 2600},
                                     {40, 31, 2309},
                                     {1, 129, 37},
                                     {130, 48, 256}}) {
      expect_same_products(pack(format, {1, n, k}), rows, {});
    }
  }
}

// Among them groups without rows, and rows without a group before and behind.
TEST_P(PackedBits, ProductsOfGroups) {
  for (const DType format : kFormats) {
    for (const Indices& offsets :
         {Indices{0, 1, 1, 3, 6}, {0, 0, 5, 11}, {0, 17, 46, 46, 150}, {3, 10, 10, 90}, {5, 5}}) {
      const Both w = pack(format, {std::ssize(offsets) - 1, 33, 323});
      expect_same_products(w, offsets.back() + 2, offsets);
    }
    Indices many = {0};
    for (std::int64_t g = 0; g < 40; ++g) {
      many.push_back(many.back() + (g % 7 == 3 ? 2 : g % 3 == 0 ? 1 : 0));
    }
    expect_same_products(pack(format, {40, 16, 64}), many.back(), many);
  }
}

// Ranks share out columns, and blocks of them.
TEST_P(PackedBits, ProductsOfSlicesOfColumns) {
  constexpr std::int64_t kN = 21, kRows = 11;
  for (const auto& [whole, ranks] :
       {std::pair<std::int64_t, int>{40, 2}, {600, 4}, {515, 3}, {1024, 4}, {3, 5}}) {
    for (int rank = 0; rank < ranks; ++rank) {
      const Slice own = share_of(whole, rank, ranks);
      const ColumnSlice slice{own.begin, own.count, whole};
      const Vector x = random({kRows, own.count}, "x", compute());
      const Tensor here = peaks_on(backend(), x, slice, kRows);
      const Tensor there = peaks_on(plain_, x, slice, kRows);
      EXPECT_EQ(bytes_of(backend(), here), bytes_of(plain_, there)) << whole << " " << rank;
      for (const DType format : kFormats) {
        Both w = pack(format, {1, kN, slice.blocks().count});
        w.here.slice = w.there.slice = slice;
        for (const bool peaks : {false, true}) {
          EXPECT_TRUE(product_on(backend(), x, kRows, {}, w.here, peaks ? here : Tensor()) ==
                      product_on(plain_, x, kRows, {}, w.there, peaks ? there : Tensor()))
              << fmt::format("{}: rank {} of {} columns, peaks {}", name_of(format), rank, whole,
                             peaks);
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, PackedBits, packed_cases(), case_name);

}  // namespace
}  // namespace moesaic::testing
