// What a rank holds of public tensors, and how updates are shared out.
#include "model/parameter/parameters.h"

#include <gtest/gtest.h>

namespace moesaic::model {
namespace {

// Protects: a split tensor's elements are those of the whole one, so that no layout starts from
// other values or stores them elsewhere.
TEST(PublicTensor, PartsAreOfTheWhole) {
  const PublicTensor rows = split_tensor("t", {5, 4}, 0, {2, 2});
  EXPECT_EQ(rows.slice_shape(), (Shape{2, 4}));
  EXPECT_EQ(rows.offset(), (std::vector<std::int64_t>{2, 0}));
  EXPECT_EQ(rows.whole_index(0), 8);
  EXPECT_EQ(rows.whole_index(7), 15);
  const PublicTensor columns = split_tensor("t", {5, 4}, 1, {1, 2});
  EXPECT_EQ(columns.slice_shape(), (Shape{5, 2}));
  EXPECT_EQ(columns.extent(), (std::vector<std::int64_t>{5, 2}));
  EXPECT_EQ(columns.whole_index(0), 1);
  EXPECT_EQ(columns.whole_index(1), 2);
  EXPECT_EQ(columns.whole_index(2), 5);
  EXPECT_EQ(columns.whole_index(9), 18);
}

TEST(Parameters, PartsHaveTheWholesInitialValues) {
  const auto backend = make_cpu_backend(1);
  const auto values = [&](const PublicTensor& tensor) {
    Parameters parameters(Tuning::none());
    Parameter& p =
        parameters.add({.shape = tensor.slice_shape(), .tensors = {tensor}, .init_std = 1.0});
    parameters.allocate(*backend, {});
    parameters.initialise(*backend, 3);
    const auto span = p.value.as<float>();
    return std::vector<float>(span.begin(), span.end());
  };
  const std::vector<float> whole = values(whole_tensor("t", {5, 4}));
  const PublicTensor part = split_tensor("t", {5, 4}, 1, {1, 2});
  const std::vector<float> there = values(part);
  for (std::size_t i = 0; i < there.size(); ++i) {
    EXPECT_EQ(there[i],
              whole[static_cast<std::size_t>(part.whole_index(static_cast<std::int64_t>(i)))]);
  }
}

// Protects a new model from the number of threads that make it.
TEST(Parameters, InitialValuesOnAnyNumberOfThreads) {
  const PublicTensor tensor = split_tensor("t", {31, 40}, 1, {3, 33});
  for (const bool normal : {true, false}) {
    const ParameterSpec spec{.shape = tensor.slice_shape(),
                             .tensors = {tensor},
                             .init_std = normal ? 0.5 : 0.0,
                             .init_bound = normal ? 0.0 : 0.25};
    const std::vector<float> alone = initial_values(spec, tensor, 7);
    EXPECT_NE(alone[0], alone[1]);
    for (const int threads : {2, 3, 8}) {
      std::vector<float> values(alone.size());
      make_initial_values(spec, tensor, 7, values, threads);
      EXPECT_EQ(values, alone);
    }
  }
}

// Protects ZeRO: over all owners every row of every parameter is updated once, and the counts of a
// bucket are where these rows lie; also where there are more owners than rows.
TEST(Parameters, OwnersShareOutEveryRow) {
  const auto backend = make_cpu_backend(1);
  for (const int ranks : {1, 2, 3, 7, 40}) {
    std::vector<std::vector<std::int64_t>> updates(3);
    for (int rank = 0; rank < ranks; ++rank) {
      Parameters parameters;
      for (const Shape& shape : {Shape{5, 7}, Shape{3}, Shape{2, 3, 4}}) {
        std::vector<PublicTensor> tensors{whole_tensor("t", shape)};
        if (shape.rank() == 3) {
          tensors = {whole_tensor("a", {3, 4}), whole_tensor("b", {3, 4})};
        }
        parameters.add({.shape = shape, .tensors = tensors});
      }
      parameters.allocate(*backend, {}, {{SumOver::kReplicas, {rank, ranks}}});
      ASSERT_EQ(parameters.buckets().size(), 1U);
      const Bucket& bucket = parameters.buckets().front();
      std::int64_t begin = 0;
      for (int r = 0; r < rank; ++r) {
        begin += bucket.counts[static_cast<std::size_t>(r)];
      }
      const std::int64_t end = begin + bucket.counts[static_cast<std::size_t>(rank)];
      std::size_t i = 0;
      for (const Parameter& p : parameters.all()) {
        updates[i].resize(static_cast<std::size_t>(p.all_rows().count));
        EXPECT_EQ(p.exp_avg.dim(0), p.owned.count);
        for (std::int64_t row = p.owned.begin; row < p.owned.end(); ++row) {
          ++updates[i][static_cast<std::size_t>(row)];
          EXPECT_GE(p.begin + row * p.columns(), begin);
          EXPECT_LE(p.begin + (row + 1) * p.columns(), end);
        }
        ++i;
      }
    }
    for (const auto& rows : updates) {
      EXPECT_EQ(rows, std::vector<std::int64_t>(rows.size(), 1)) << ranks << " owners";
    }
  }
}

}  // namespace
}  // namespace moesaic::model
