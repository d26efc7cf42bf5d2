#pragma once

#include <cstdint>
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

  /// Adds the errors of the outputs of this rank's experts. Collective over tp.
  Observer observer();
  const Sums& sums() const { return sums_; }
  void clear();

 private:
  void add(const ExpertOutputEvent& event);

  const Transformer& other_;
  Context context_;
  std::int64_t experts_;
  Sums sums_;
};

}  // namespace moesaic::model
