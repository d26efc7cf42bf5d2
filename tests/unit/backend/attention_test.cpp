// Protects attention, forward and backward, over head layouts, lengths and packed documents.
#include "reference/attention.h"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <numeric>

#include "unit/backend/kernel_test.h"

namespace moesaic::testing {
namespace {

using reference::Heads;

class AttentionKernels : public KernelTest {
 protected:
  void check(const Heads& heads, const Indices& first_key, double size, double tolerance) {
    const std::int64_t tokens = std::ssize(first_key);
    const Shape fused{
        tokens, (heads.query + heads.key_value) * heads.head_dim + heads.key_value * heads.v_dim};
    const Shape wide{tokens, heads.query, heads.v_dim};
    Vector qkv = random({tokens, fused[1]}, "qkv", compute());
    for (double& value : qkv) {
      value *= size;
    }
    const Vector dout = random({tokens, heads.query, heads.v_dim}, "dout", compute());
    const AttentionShape shape{.heads = heads.query,
                               .kv_heads = heads.key_value,
                               .head_dim = heads.head_dim,
                               .v_dim = heads.v_dim,
                               .scale = to_float(heads.scale)};
    const Tensor qkv_there = upload(qkv, fused, compute());
    const VisibleKeys visible = causal(first_key);
    const Tensor out = poisoned(wide, compute());
    const Tensor lse = poisoned({tokens, heads.query});
    const Tensor dqkv = poisoned(fused, compute());
    backend().attention(shape.queries(qkv_there), shape.keys(qkv_there), visible, shape.scale, out,
                        lse);
    backend().attention_backward(upload(dout, wide, compute()), shape.queries(qkv_there),
                                 shape.keys(qkv_there), visible, shape.scale, out, lse,
                                 shape.gradients(dqkv), Write::kOverwrite);
    const auto expected = reference::attention(qkv, heads, first_key);
    const std::string what = fmt::format("{} tokens, heads {}/{} of {}/{}", tokens, heads.query,
                                         heads.key_value, heads.head_dim, heads.v_dim);
    expect_close(download(out), expected.out, tolerance, "out of " + what);
    expect_close(download(lse), expected.lse, tolerance, "lse of " + what);
    // The backward pass reads the rounded out: its dot products with dout carry that error. With
    // bf16 dot products, dS is rounded too before it meets keys and queries.
    expect_close(download(dqkv), reference::attention_backward(dout, qkv, heads, first_key),
                 6.0 * tolerance, "dqkv of " + what);
  }

  // Row t sees the keys from first_key[t] to its own.
  VisibleKeys causal(const Indices& first_key) const {
    Indices last(first_key.size());
    std::iota(last.begin(), last.end(), 1);
    return {.first = upload(first_key, {std::ssize(first_key)}),
            .last = upload(last, {std::ssize(last)})};
  }

  static Heads heads_of(std::int64_t query, std::int64_t key_value, std::int64_t head_dim) {
    return with_values(query, key_value, head_dim, head_dim);
  }
  static Heads with_values(std::int64_t query, std::int64_t key_value, std::int64_t head_dim,
                           std::int64_t v_dim) {
    return {query, key_value, head_dim, v_dim, 1.0 / std::sqrt(static_cast<double>(head_dim))};
  }
};

// Documents of these lengths, over and over.
Indices packed(std::int64_t tokens, const Indices& lengths) {
  Indices first_key;
  for (std::size_t document = 0; std::ssize(first_key) < tokens; ++document) {
    const std::int64_t begin = std::ssize(first_key);
    const std::int64_t length = lengths[document % lengths.size()];
    first_key.insert(first_key.end(), std::min(length, tokens - begin), begin);
  }
  return first_key;
}

TEST_P(AttentionKernels, HeadLayouts) {
  for (const auto& [query, key_value, head_dim] :
       std::initializer_list<std::array<std::int64_t, 3>>{
           {1, 1, 2}, {4, 2, 10}, {3, 1, 16}, {3, 3, 34}, {2, 1, 80}}) {
    check(heads_of(query, key_value, head_dim), packed(70, {29, 1, 50}), 1.0, tolerance());
  }
}

// Values narrower and wider than queries and keys, those of latent attention among them.
TEST_P(AttentionKernels, ValuesOfAnotherSize) {
  for (const auto& [query, key_value, head_dim, v_dim] :
       std::initializer_list<std::array<std::int64_t, 4>>{{4, 2, 24, 20},
                                                          {2, 1, 5, 37},
                                                          {3, 3, 40, 1},
                                                          {1, 1, 1, 17},
                                                          {2, 2, 192, 128},
                                                          {2, 1, 576, 512}}) {
    check(with_values(query, key_value, head_dim, v_dim), packed(70, {29, 1, 50}), 1.0,
          tolerance());
  }
}

TEST_P(AttentionKernels, LengthsAndDocuments) {
  const Heads heads = heads_of(4, 2, 10);
  for (const std::int64_t tokens : kRowCounts) {
    check(heads, Indices(static_cast<std::size_t>(tokens), 0), 1.0, tolerance());
    check(heads, packed(tokens, {1}), 1.0, tolerance());
    check(heads, packed(tokens, {64, 3, 1, 40}), 1.0, tolerance());
  }
}

// More queries than share their keys once converted, in documents that begin before them.
TEST_P(AttentionKernels, LongDocuments) {
  check(heads_of(2, 1, 6), packed(1300, {700, 90, 510}), 1.0, tolerance());
}

// Documents about as long as tiles of queries and keys; the shortest ones.
TEST_P(AttentionKernels, DocumentsAboutTiles) {
  const Heads heads = heads_of(2, 1, 16);
  check(heads, packed(448, {63, 64, 65, 127, 129}), 1.0, tolerance());
  check(heads, packed(448, {129, 127, 65, 64, 63}), std::sqrt(3.0), 3.0 * tolerance());
  check(heads, packed(2, {2}), 1.0, tolerance());
  check(heads, packed(130, {1}), 1.0, tolerance());
  check(heads, packed(131, {2, 1}), 1.0, tolerance());
}

// Widths about those at which a kernel changes its form.
TEST_P(AttentionKernels, WidthsAboutForms) {
  for (const auto& [head_dim, v_dim] : std::initializer_list<std::array<std::int64_t, 2>>{
           {64, 64}, {65, 66}, {128, 128}, {136, 144}, {256, 256}, {264, 260}}) {
    check(with_values(2, 1, head_dim, v_dim), packed(70, {40, 30}), 1.0, tolerance());
  }
}

// Windows narrower and wider than tiles; a gradient of a key that nobody sees is zero.
TEST_P(AttentionKernels, Windows) {
  constexpr std::int64_t kTokens = 200;
  for (const std::int64_t window : {1, 2, 64, 65}) {
    Indices first_key(kTokens);
    for (std::int64_t t = 0; t < kTokens; ++t) {
      first_key[static_cast<std::size_t>(t)] = std::max<std::int64_t>(0, t - window + 1);
    }
    check(heads_of(2, 1, 16), first_key, 1.0, tolerance());
  }
}

// Two calls give the same bits, forward and backward.
TEST_P(AttentionKernels, SameBitsTwice) {
  const AttentionShape shape{.heads = 4, .kv_heads = 2, .head_dim = 24, .v_dim = 16, .scale = 0.2F};
  const Indices first_key = packed(150, {70, 1, 79});
  const std::int64_t tokens = std::ssize(first_key);
  const Tensor qkv =
      upload(random({tokens, shape.width()}, "qkv", compute()), {tokens, shape.width()}, compute());
  const Shape wide{tokens, shape.heads, shape.v_dim};
  const Tensor dout =
      upload(random({wide[0], wide[1], wide[2]}, "dout", compute()), wide, compute());
  const auto run = [&] {
    const Tensor out = poisoned(wide, compute());
    const Tensor lse = poisoned({tokens, shape.heads});
    const Tensor dqkv = poisoned({tokens, shape.width()}, compute());
    backend().attention(shape.queries(qkv), shape.keys(qkv), causal(first_key), shape.scale, out,
                        lse);
    backend().attention_backward(dout, shape.queries(qkv), shape.keys(qkv), causal(first_key),
                                 shape.scale, out, lse, shape.gradients(dqkv), Write::kOverwrite);
    return std::array{download(out), download(lse), download(dqkv)};
  };
  EXPECT_EQ(run(), run());
}

// A sequence has the same bits alone and among others, whether its first tokens are its own or
// another's; and they are those that it should have.
TEST_P(AttentionKernels, SequencesHaveTheirOwnBits) {
  struct Part {
    std::int64_t tokens, shared;  // with the first one
  };
  const Heads heads = with_values(4, 2, 10, 6);
  const std::int64_t width = 6 * heads.head_dim + 2 * heads.v_dim;
  const std::int64_t row = heads.query * heads.v_dim;
  struct Seen {
    Indices first, last, origin, fork, jump;
  };
  const auto attend = [&](const Vector& qkv, const Seen& seen) {
    const std::int64_t rows = std::ssize(qkv) / width;
    const Tensor out = poisoned({rows, heads.query, heads.v_dim}, compute());
    const Tensor lse = poisoned({rows, heads.query});
    const AttentionShape shape{.heads = heads.query,
                               .kv_heads = heads.key_value,
                               .head_dim = heads.head_dim,
                               .v_dim = heads.v_dim,
                               .scale = to_float(heads.scale)};
    const Tensor there = upload(qkv, {rows, width}, compute());
    backend().attention(
        shape.queries(there), shape.keys(there),
        {upload(seen.first, {rows}), upload(seen.last, {rows}), upload(seen.origin, {rows}),
         upload(seen.fork, {rows}), upload(seen.jump, {rows})},
        shape.scale, out, lse);
    return download(out);
  };
  const std::vector<Part> parts = {{150, 0},  {9, 0},      {151, 150}, {100, 98},   {64, 62},
                                   {300, 64}, {1201, 130}, {1, 0},     {1301, 128}, {20, 2}};
  constexpr std::int64_t kNone = 1 << 30;
  Vector all;
  Seen together;
  std::vector<std::int64_t> begins;
  std::vector<Vector> alone;
  for (const Part& part : parts) {
    const std::int64_t rows = part.tokens - part.shared;
    const Vector own = random({rows, width}, fmt::format("run {}", begins.size()), compute());
    const std::int64_t begin = std::ssize(all) / width;
    const std::int64_t first = part.shared > 0 ? 0 : begin;
    for (std::int64_t i = part.shared; i < part.tokens; ++i) {
      together.first.push_back(first);
      together.last.push_back(first + i + 1);
      together.origin.push_back(first);
      together.fork.push_back(part.shared > 0 ? part.shared : kNone);
      together.jump.push_back(part.shared > 0 ? begin - part.shared : 0);
    }
    begins.push_back(begin);
    alone.emplace_back(all.begin(), all.begin() + part.shared * width);
    alone.back().insert(alone.back().end(), own.begin(), own.end());
    all.insert(all.end(), own.begin(), own.end());
  }
  const Vector both = attend(all, together);
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const Part& part = parts[i];
    const auto tokens = static_cast<std::size_t>(part.tokens);
    const Indices zero(tokens, 0);
    Indices last(tokens);
    std::iota(last.begin(), last.end(), 1);
    const Vector one = attend(alone[i], {zero, last, zero, Indices(tokens, kNone), zero});
    const Vector own(one.begin() + part.shared * row, one.end());
    const auto from = both.begin() + begins[i] * row;
    EXPECT_EQ(own, Vector(from, from + (part.tokens - part.shared) * row)) << "sequence " << i;
    // Over a long one the mean of values is small, but that of the first rows is not.
    expect_close(one, reference::attention(alone[i], heads, zero).out, 2.0 * tolerance(),
                 fmt::format("out of sequence {}", i));
  }
}

// Scores far apart: the running maximum has to move, and no exponential may overflow.
TEST_P(AttentionKernels, LargeScores) {
  check(heads_of(2, 1, 16), packed(130, {130}), 8.0, 10.0 * tolerance());
}

INSTANTIATE_TEST_SUITE_P(Backends, AttentionKernels, all_cases(), case_name);

}  // namespace
}  // namespace moesaic::testing
