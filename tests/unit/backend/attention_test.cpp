// Protects attention, forward and backward, over head layouts, lengths and packed documents.
#include "reference/attention.h"

#include <fmt/format.h>

#include <array>
#include <cmath>

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
    const Tensor first_there = upload(first_key, {tokens});
    const Tensor out = poisoned(wide, compute());
    const Tensor lse = poisoned({tokens, heads.query});
    const Tensor dqkv = poisoned(fused, compute());
    backend().attention(qkv_there, shape, {first_there}, out, lse);
    backend().attention_backward(upload(dout, wide, compute()), qkv_there, out, lse, shape,
                                 first_there, dqkv);
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

// With runs a sequence has the same bits alone and among others, whether its first tokens are its
// own or another's; and they are those that it should have.
TEST_P(AttentionKernels, RunsHaveTheirOwnBits) {
  struct Part {
    std::int64_t tokens, shared;  // with the first run
  };
  const Heads heads = with_values(4, 2, 10, 6);
  const std::int64_t width = 6 * heads.head_dim + 2 * heads.v_dim;
  const std::int64_t row = heads.query * heads.v_dim;
  const auto attend = [&](const Vector& qkv, const std::vector<KeyRun>& runs) {
    const std::int64_t rows = std::ssize(qkv) / width;
    const Tensor out = poisoned({rows, heads.query, heads.v_dim}, compute());
    const Tensor lse = poisoned({rows, heads.query});
    backend().attention(upload(qkv, {rows, width}, compute()),
                        {.heads = heads.query,
                         .kv_heads = heads.key_value,
                         .head_dim = heads.head_dim,
                         .v_dim = heads.v_dim,
                         .scale = to_float(heads.scale)},
                        {upload(Indices(static_cast<std::size_t>(rows), 0), {rows}), runs}, out,
                        lse);
    return download(out);
  };
  const std::vector<Part> parts = {{150, 0},  {9, 0},      {151, 150}, {100, 98},   {64, 62},
                                   {300, 64}, {1201, 130}, {1, 0},     {1301, 128}, {20, 2}};
  Vector all;
  std::vector<KeyRun> runs;
  std::vector<Vector> alone;
  for (const Part& part : parts) {
    const std::int64_t rows = part.tokens - part.shared;
    const Vector own = random({rows, width}, fmt::format("run {}", runs.size()), compute());
    runs.push_back({std::ssize(all) / width, rows, part.shared, 0});
    alone.emplace_back(all.begin(), all.begin() + part.shared * width);
    alone.back().insert(alone.back().end(), own.begin(), own.end());
    all.insert(all.end(), own.begin(), own.end());
  }
  const Vector together = attend(all, runs);
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const Vector one = attend(alone[i], {{0, runs[i].size(), 0, 0}});
    const Vector own(one.begin() + runs[i].shared * row, one.end());
    const auto from = together.begin() + runs[i].begin * row;
    EXPECT_EQ(own, Vector(from, from + runs[i].rows * row)) << "run " << i;
    const Indices first_key(static_cast<std::size_t>(runs[i].size()), 0);
    // Over a long run the mean of values is small, but that of the first rows is not.
    expect_close(one, reference::attention(alone[i], heads, first_key).out, 2.0 * tolerance(),
                 fmt::format("out of run {}", i));
  }
}

// Scores far apart: the running maximum has to move, and no exponential may overflow.
TEST_P(AttentionKernels, LargeScores) {
  check(heads_of(2, 1, 16), packed(130, {130}), 8.0, 10.0 * tolerance());
}

INSTANTIATE_TEST_SUITE_P(Backends, AttentionKernels, all_cases(), case_name);

}  // namespace
}  // namespace moesaic::testing
