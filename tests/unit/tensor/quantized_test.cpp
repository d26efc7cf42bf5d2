// Quantized weights as files hold them: the same numbers as in the layout of products.
#include "tensor/quantized.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "backend/backend.h"
#include "backend/cpu/packed_rows.h"
#include "tensor/rng.h"

namespace moesaic::testing {
namespace {

constexpr DType kTypes[] = {DType::kInt8, DType::kInt4};

std::vector<float> normal(std::int64_t count, std::uint64_t seed) {
  const Rng rng(seed, hash_name("weights"));
  std::vector<float> values;
  for (std::int64_t i = 0; i < count; ++i) {
    values.push_back(static_cast<float>(rng.normal(static_cast<std::uint64_t>(i))));
  }
  return values;
}

struct Packed {
  std::unique_ptr<Backend> backend = make_cpu_backend(1);
  PackedWeights weights;

  Packed(DType type, std::int64_t rows, std::int64_t columns) {
    const std::vector<float> values = normal(rows * columns, 7);
    const Tensor w = backend->empty(DType::kF32, {1, rows, columns});
    backend->upload(std::as_bytes(std::span(values)), w);
    weights = backend->pack(type, w, {});
  }
  std::span<std::byte> panels() const { return {weights.words.data(), weights.words.bytes()}; }
  std::vector<float> unpacked() const {
    const Tensor w = backend->empty(DType::kF32, {1, weights.rows, weights.columns});
    backend->unpack(weights, w);
    const auto span = w.as<float>();
    return {span.begin(), span.end()};
  }
  std::vector<float> product() const {
    constexpr std::int64_t kRows = 3;
    const std::vector<float> values = normal(kRows * weights.columns, 8);
    const Tensor x = backend->empty(DType::kF32, {kRows, weights.columns});
    backend->upload(std::as_bytes(std::span(values)), x);
    const Tensor y = backend->empty(DType::kF32, {kRows, weights.rows});
    backend->packed_matmul(x, {}, weights, y, {});
    const auto span = y.as<float>();
    return {span.begin(), span.end()};
  }
};

std::vector<float> decoded(const QuantizedRows& rows) {
  std::vector<float> values(static_cast<std::size_t>(rows.rows * rows.columns));
  rows.decode(values);
  return values;
}

// Protects: a file's codes stand for what the panels stand for, and become panels whose products
// have the same bits; whatever the rows, columns and halves of bytes.
TEST(QuantizedRows, ThereAndBack) {
  for (const DType type : kTypes) {
    for (const auto& [rows, columns] :
         {std::pair<std::int64_t, std::int64_t>{1, 1}, {16, 256}, {17, 64}, {33, 515}, {5, 289}}) {
      Packed packed(type, rows, columns);
      const QuantizedRows stored = rows_of_panels(type, packed.panels(), rows, columns);
      EXPECT_EQ(stored.problem(), "");
      EXPECT_EQ(decoded(stored), packed.unpacked());
      const std::vector<float> product = packed.product();
      clear_panels(type, columns, packed.panels());
      EXPECT_EQ(packed.product(), std::vector<float>(product.size(), 0.0F));
      put_into_panels(stored, 0, packed.panels());
      EXPECT_EQ(decoded(stored), packed.unpacked());
      EXPECT_EQ(packed.product(), product) << name_of(type) << " " << rows << " x " << columns;
    }
  }
}

// Protects: rows of several tensors lie in one group, as gate and up do.
TEST(QuantizedRows, PartsOfAGroup) {
  constexpr std::int64_t kRows = 37, kColumns = 300, kFirst = 11;
  for (const DType type : kTypes) {
    Packed packed(type, kRows, kColumns);
    const QuantizedRows all = rows_of_panels(type, packed.panels(), kRows, kColumns);
    const std::vector<float> expected = packed.unpacked();
    clear_panels(type, kColumns, packed.panels());
    for (const std::int64_t begin : {std::int64_t{0}, kFirst}) {
      const std::int64_t count = begin == 0 ? kFirst : kRows - kFirst;
      QuantizedRows part = QuantizedRows::zeros(type, count, kColumns);
      copy_rows(all, begin, 0, count, part, 0, 0);
      put_into_panels(part, begin, packed.panels());
    }
    EXPECT_EQ(packed.unpacked(), expected) << name_of(type);
  }
}

// Protects: a block-aligned slice of columns has the numbers of the whole.
TEST(QuantizedRows, SlicesOfColumns) {
  constexpr std::int64_t kRows = 3, kColumns = 600;
  for (const DType type : kTypes) {
    const Packed packed(type, kRows, kColumns);
    const QuantizedRows all = rows_of_panels(type, packed.panels(), kRows, kColumns);
    const std::vector<float> whole = decoded(all);
    for (const std::int64_t begin : {0, 256, 512}) {
      for (const std::int64_t count : {std::int64_t{1}, std::int64_t{33}, kColumns - begin}) {
        QuantizedRows part = QuantizedRows::zeros(type, 2, count);
        copy_rows(all, 1, begin, 2, part, 0, 0);
        EXPECT_EQ(part.problem(), "");
        const std::vector<float> values = decoded(part);
        for (std::int64_t i = 0; i < 2 * count; ++i) {
          const std::int64_t at = (1 + i / count) * kColumns + begin + i % count;
          ASSERT_EQ(values[static_cast<std::size_t>(i)], whole[static_cast<std::size_t>(at)]);
        }
      }
    }
  }
}

// Protects: numbers that no formula allows are told, with their place, before they are used.
TEST(QuantizedRows, Problems) {
  for (const DType type : kTypes) {
    QuantizedRows rows = QuantizedRows::zeros(type, 2, 300);
    EXPECT_EQ(rows.problem(), "");
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), INFINITY, -1.0F}) {
      QuantizedRows spoilt = rows;
      spoilt.scales[3] = bad;
      EXPECT_NE(spoilt.problem().find("scale [1, 1] is"), std::string::npos) << spoilt.problem();
    }
  }
  QuantizedRows int8 = QuantizedRows::zeros(DType::kInt8, 2, 300);
  int8.codes[301] = 0;
  EXPECT_NE(int8.problem().find("code [1, 1] is 0"), std::string::npos) << int8.problem();
  QuantizedRows int4 = QuantizedRows::zeros(DType::kInt4, 2, 300);
  int4.steps[24] = 17;
  int4.steps[25] = 1;
  EXPECT_NE(int4.problem().find("steps [1, 2] are (17, 1)"), std::string::npos) << int4.problem();
}

}  // namespace
}  // namespace moesaic::testing
