#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/context.h"
#include "model/transformer.h"

namespace moesaic::model {

/// How far the outputs of another model's experts are from those of the model that computes, on the
/// rows that its experts get. Both models have one layout.
class ExpertErrors {
 public:
  /// Sums over the rows that this rank has seen: one entry for each MoE layer m and expert id e.
  struct Sums {
    std::vector<double> rows;             // (M, E) tokens
    std::vector<double> squares, errors;  // (M, E) sums over rows of |y|^2, |other y - y|^2
  };

  /// experts: E. Both must outlive this.
  ExpertErrors(const Transformer& other, Context other_context, std::int64_t experts);

  /// Adds the errors of rows x (R, D), grouped by this rank's experts as offsets say, whose output
  /// is y (R, D). terms: y is this rank's term of a sum over tp, and each rank has the same rows.
  /// Collective over tp.
  void add(Context& ctx, std::int64_t moe_layer, const Tensor& x,
           std::span<const std::int64_t> offsets, const Tensor& y, bool terms);
  const Sums& sums() const { return sums_; }
  void clear();

 private:
  const Transformer& other_;
  Context context_;
  std::int64_t experts_;
  Sums sums_;
};

}  // namespace moesaic::model
