// Protects: products and attention have the same bits on any number of threads, and products also
// wherever their rows lie, so that micro-batches of other sizes and places compute the same for a
// token.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "backend/transfer.h"
#include "unit/backend/kernel_test.h"

namespace moesaic::testing {
namespace {

using Bytes = std::vector<std::byte>;

struct Sizes {
  std::int64_t m, n, k;
};
constexpr std::array<Sizes, 5> kSizes = {
    {{1, 1, 1}, {7, 131, 67}, {129, 33, 517}, {261, 97, 45}, {5, 301, 1031}}};
constexpr std::array<int, 3> kThreadCounts = {2, 3, 5};
constexpr std::array kBoth = {Transpose::kNo, Transpose::kYes};

// Groups of none, one, few and many rows.
constexpr std::array<std::int64_t, 6> kOffsets = {0, 37, 37, 38, 171, 174};
constexpr std::int64_t kN = 131, kM = 67;

Tensor offsets_on(Backend& backend, std::span<const std::int64_t> offsets) {
  return to_device(backend, std::vector<std::int32_t>(offsets.begin(), offsets.end()),
                   {std::ssize(offsets)});
}

class ProductBits : public KernelTest {
 protected:
  static cpu::CpuBackend backend(int threads) {
    return {threads, set_of(std::get<Engine>(GetParam()))};
  }

  /// Random values in the compute dtype, the same under the same name.
  Tensor draw(Backend& on, std::string_view name, const Shape& shape) const {
    const Vector values = random({shape.numel()}, name, compute());
    const std::vector<float> host(values.begin(), values.end());
    const Tensor full = on.empty(DType::kF32, shape);
    on.upload(std::as_bytes(std::span(host)), full);
    Tensor tensor = on.empty(compute(), shape);
    on.convert(full, tensor);
    return tensor;
  }

  static Bytes bits(Backend& on, const Tensor& tensor) {
    Bytes values(tensor.bytes());
    on.download(tensor, values);
    return values;
  }

  /// The rows of the first dim from the last to the first.
  static Tensor reversed(Backend& on, const Tensor& x) {
    std::vector<std::int32_t> order(static_cast<std::size_t>(x.dim(0)));
    std::iota(order.rbegin(), order.rend(), 0);
    const Tensor index = on.empty(DType::kI32, {x.dim(0)});
    on.upload(std::as_bytes(std::span(order)), index);
    const Tensor flat = x.reshaped({x.dim(0), x.numel() / x.dim(0)});
    const Tensor y = on.empty(x.dtype(), flat.shape());
    on.gather_rows(flat, index, y);
    return y.reshaped(x.shape());
  }

  static Shape shape_of(Transpose transpose, std::int64_t rows, std::int64_t columns) {
    return transpose == Transpose::kNo ? Shape{rows, columns} : Shape{columns, rows};
  }

  Bytes matmul(int threads, const Sizes& s, Transpose ta, Transpose tb, DType out,
               Write write) const {
    cpu::CpuBackend on = backend(threads);
    const Tensor c = on.empty(out, {s.m, s.n});
    on.zero(c);
    on.matmul(draw(on, "a", shape_of(ta, s.m, s.k)), ta, draw(on, "b", shape_of(tb, s.k, s.n)), tb,
              c, write);
    return bits(on, c);
  }

  /// out, lse and dqkv of four query heads and `kv_heads` of keys, in documents that begin here.
  std::array<Bytes, 3> attention(int threads, std::int64_t kv_heads, std::int64_t tokens,
                                 const std::vector<std::int32_t>& documents) const {
    constexpr std::int64_t kHeads = 4, kHeadDim = 10, kValueDim = 7;
    cpu::CpuBackend on = backend(threads);
    std::vector<std::int32_t> first;
    for (const std::int32_t begin : documents) {
      first.resize(static_cast<std::size_t>(begin), first.empty() ? 0 : first.back());
      first.push_back(begin);
    }
    first.resize(static_cast<std::size_t>(tokens), first.back());
    std::vector<std::int32_t> last(first.size());
    std::iota(last.begin(), last.end(), 1);
    const VisibleKeys visible{.first = to_device(on, first, {tokens}),
                              .last = to_device(on, last, {tokens})};
    const Tensor qkv =
        draw(on, "qkv", {tokens, (kHeads + kv_heads) * kHeadDim + kv_heads * kValueDim});
    const Tensor dout = draw(on, "dout", {tokens, kHeads, kValueDim});
    const Tensor out = on.empty(compute(), dout.shape());
    const Tensor lse = on.empty(DType::kF32, {tokens, kHeads});
    const Tensor dqkv = on.empty(compute(), qkv.shape());
    const AttentionShape shape{.heads = kHeads,
                               .kv_heads = kv_heads,
                               .head_dim = kHeadDim,
                               .v_dim = kValueDim,
                               .scale = 0.3F};
    on.attention(shape.queries(qkv), shape.keys(qkv), visible, shape.scale, out, lse);
    on.attention_backward(dout, shape.queries(qkv), shape.keys(qkv), visible, shape.scale, out, lse,
                          shape.gradients(dqkv), Write::kOverwrite);
    return {bits(on, out), bits(on, lse), bits(on, dqkv)};
  }

  /// out and lse of rows of sequences of these lengths, in pages, the last `rows` of each.
  std::array<Bytes, 2> paged_attention(int threads, std::span<const std::int64_t> lengths,
                                       std::int64_t rows) const {
    constexpr std::int64_t kHeads = 4, kHeadDim = 10;
    cpu::CpuBackend on = backend(threads);
    std::vector<std::int32_t> offsets = {0}, position, page_offsets = {0};
    for (const std::int64_t length : lengths) {
      offsets.push_back(offsets.back() + static_cast<std::int32_t>(rows));
      position.push_back(static_cast<std::int32_t>(length - rows));
      page_offsets.push_back(page_offsets.back() +
                             static_cast<std::int32_t>((length + kPageTokens - 1) / kPageTokens));
    }
    std::vector<std::int32_t> pages(static_cast<std::size_t>(page_offsets.back()));
    std::iota(pages.rbegin(), pages.rend(), 0);
    const Shape in_pages{page_offsets.back(), 1, kPageTokens, kHeadDim};
    const Tensor out = on.empty(compute(), {offsets.back(), kHeads, kHeadDim});
    const Tensor lse = on.empty(DType::kF32, {offsets.back(), kHeads});
    std::vector<std::int32_t> first(static_cast<std::size_t>(offsets.back()), 0), last;
    for (const std::int64_t length : lengths) {
      for (std::int64_t row = length - rows; row < length; ++row) {
        last.push_back(static_cast<std::int32_t>(row + 1));
      }
    }
    const auto there = [&](const std::vector<std::int32_t>& values) {
      return to_device(on, values, {std::ssize(values)});
    };
    on.attention(
        {draw(on, "q", {offsets.back(), kHeads * kHeadDim}), {0, kHeads, kHeadDim, kHeadDim}},
        {draw(on, "keys", in_pages),
         draw(on, "values", in_pages),
         {.offsets = there(offsets),
          .position = there(position),
          .page_offsets = there(page_offsets),
          .pages = there(pages),
          .most_keys = *std::max_element(lengths.begin(), lengths.end())}},
        {.first = to_device(on, first, {offsets.back()}),
         .last = to_device(on, last, {offsets.back()})},
        0.3F, out, lse);
    return {bits(on, out), bits(on, lse)};
  }

  struct Grouped {
    Bytes y, dx, dw;
    bool operator==(const Grouped&) const = default;
  };

  Grouped grouped(int threads) const {
    cpu::CpuBackend on = backend(threads);
    const auto groups = std::ssize(kOffsets) - 1;
    const Tensor x = draw(on, "x", {kOffsets.back(), kM});
    const Tensor w = draw(on, "w", {groups, kN, kM});
    const Tensor dy = draw(on, "dy", {kOffsets.back(), kN});
    const Tensor y = on.empty(compute(), dy.shape());
    const Tensor dx = on.empty(compute(), x.shape());
    const Tensor dw = on.empty(DType::kF32, w.shape());
    on.zero(dw);
    const Tensor offsets = offsets_on(on, kOffsets);
    on.grouped_matmul(x, offsets, w, y);
    on.grouped_matmul_dx(dy, offsets, w, dx);
    on.grouped_matmul_dw(dy, x, offsets, dw);
    return {bits(on, y), bits(on, dx), bits(on, dw)};
  }
};

TEST_P(ProductBits, OnAnyNumberOfThreads) {
  for (const Sizes& s : kSizes) {
    for (const Transpose ta : kBoth) {
      for (const Transpose tb : kBoth) {
        for (const Write write : {Write::kOverwrite, Write::kAdd}) {
          const DType out = write == Write::kAdd ? DType::kF32 : compute();
          const Bytes expected = matmul(1, s, ta, tb, out, write);
          for (const int threads : kThreadCounts) {
            EXPECT_TRUE(matmul(threads, s, ta, tb, out, write) == expected)
                << fmt::format("({}, {}, {}) transposed {} {} on {} threads", s.m, s.n, s.k,
                               ta == Transpose::kYes, tb == Transpose::kYes, threads);
          }
        }
      }
    }
  }
}

TEST_P(ProductBits, GroupedOnAnyNumberOfThreads) {
  const Grouped expected = grouped(1);
  for (const int threads : kThreadCounts) {
    const Grouped here = grouped(threads);
    EXPECT_TRUE(here.y == expected.y) << "y on " << threads << " threads";
    EXPECT_TRUE(here.dx == expected.dx) << "dx on " << threads << " threads";
    EXPECT_TRUE(here.dw == expected.dw) << "dw on " << threads << " threads";
  }
}

// Threads take whole heads of keys where there are enough of them, and else tiles.
TEST_P(ProductBits, AttentionOnAnyNumberOfThreads) {
  for (const std::int64_t kv_heads : {1, 2, 4}) {
    const auto expected = attention(1, kv_heads, 333, {0, 200, 201, 270});
    for (const int threads : kThreadCounts) {
      EXPECT_TRUE(attention(threads, kv_heads, 333, {0, 200, 201, 270}) == expected)
          << kv_heads << " heads of keys on " << threads << " threads";
    }
  }
}

// The share of a thread may begin at any tile, and reach over the border of a document: then it
// sees more keys than one that begins there.
TEST_P(ProductBits, LongDocumentsOnAnyNumberOfThreads) {
  const auto expected = attention(1, 2, 2048, {0, 1024});
  for (const int threads : {3, 5, 7, 11}) {
    EXPECT_TRUE(attention(threads, 2, 2048, {0, 1024}) == expected) << threads << " threads";
  }
}

// Threads take whole tiles where there are enough of them, and else parts of their keys.
TEST_P(ProductBits, PagedAttentionOnAnyNumberOfThreads) {
  constexpr std::array<std::int64_t, 3> kLengths = {1500, 2100, 40};
  for (const std::size_t sequences : {1U, 3U}) {
    for (const std::int64_t rows : {1, 40}) {
      const std::span lengths = std::span(kLengths).first(sequences);
      const auto expected = paged_attention(1, lengths, rows);
      for (const int threads : kThreadCounts) {
        EXPECT_TRUE(paged_attention(threads, lengths, rows) == expected)
            << rows << " rows of " << sequences << " sequences on " << threads << " threads";
      }
    }
  }
}

// A row's result is the same at the other end of a matrix, and in one of fewer rows.
TEST_P(ProductBits, OfARowWhereverItLies) {
  cpu::CpuBackend on = backend(2);
  for (const Sizes& s : kSizes) {
    for (const Transpose tb : kBoth) {
      const Tensor a = draw(on, "a", {s.m, s.k});
      const Tensor b = draw(on, "b", shape_of(tb, s.k, s.n));
      const auto product = [&](const Tensor& of) {
        Tensor c = on.empty(compute(), {of.dim(0), s.n});
        on.matmul(of, Transpose::kNo, b, tb, c, Write::kOverwrite);
        return c;
      };
      const std::string what = fmt::format("({}, {}, {})", s.m, s.n, s.k);
      const Tensor whole = product(a);
      EXPECT_TRUE(bits(on, reversed(on, product(reversed(on, a)))) == bits(on, whole)) << what;
      const std::int64_t some = (s.m + 1) / 2;
      EXPECT_TRUE(bits(on, product(a.rows(s.m - some, some))) ==
                  bits(on, whole.rows(s.m - some, some)))
          << what;
    }
  }
}

// The same for groups: all rows and weights in the opposite order.
TEST_P(ProductBits, OfAGroupWhereverItLies) {
  cpu::CpuBackend on = backend(2);
  const std::int64_t rows = kOffsets.back();
  std::vector<std::int64_t> ends;
  for (auto i = kOffsets.rbegin(); i != kOffsets.rend(); ++i) {
    ends.push_back(rows - *i);
  }
  const Tensor from_end = offsets_on(on, ends);
  const Tensor x = draw(on, "x", {rows, kM});
  const Tensor dy = draw(on, "dy", {rows, kN});
  const Tensor w = draw(on, "w", {std::ssize(kOffsets) - 1, kN, kM});
  const Tensor y = on.empty(compute(), dy.shape());
  const Tensor dx = on.empty(compute(), x.shape());
  on.grouped_matmul(x, offsets_on(on, kOffsets), w, y);
  on.grouped_matmul_dx(dy, offsets_on(on, kOffsets), w, dx);
  const Tensor y_there = on.empty(compute(), dy.shape());
  const Tensor dx_there = on.empty(compute(), x.shape());
  on.grouped_matmul(reversed(on, x), from_end, reversed(on, w), y_there);
  on.grouped_matmul_dx(reversed(on, dy), from_end, reversed(on, w), dx_there);
  EXPECT_TRUE(bits(on, reversed(on, y_there)) == bits(on, y));
  EXPECT_TRUE(bits(on, reversed(on, dx_there)) == bits(on, dx));
}

INSTANTIATE_TEST_SUITE_P(Backends, ProductBits,
                         ::testing::Combine(::testing::Values(Engine::kPortable, Engine::kAvx2,
                                                              Engine::kAvx512, Engine::kAvx512Pairs,
                                                              Engine::kMatrixUnits),
                                            ::testing::Values(DType::kF32, DType::kBf16)),
                         case_name);

}  // namespace
}  // namespace moesaic::testing
