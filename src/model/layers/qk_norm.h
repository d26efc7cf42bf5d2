#pragma once

#include "config/config.h"
#include "model/context.h"
#include "model/parameter/parameters.h"

namespace moesaic::model {

/// Heads of queries, and of keys and values, of one rank.
struct HeadsOfRank {
  std::int64_t heads, kv_heads;
};

/// RMS norm of queries and keys before they are rotated: of each head with one weight for all
/// heads (Qwen3), or of the whole projection (OLMoE), over all heads of all ranks of tp.
/// x: (T, W) compute, query heads, key heads and more. forward and backward are collective over tp
/// where the norm is over the whole projection.
class QkNorm {
 public:
  struct Saved {
    Tensor q, k;  // sums of squares, (T, groups) fp32
  };

  QkNorm(Parameters& parameters, const config::Model& model, const HeadsOfRank& own,
         PublicTensor q_weight, PublicTensor k_weight);

  /// Norms of x's groups go to y.
  void forward(Context& ctx, const Tensor& x, const Tensor& y, Saved& saved) const;
  /// The same once more, without the sums.
  void repeat(Context& ctx, const Tensor& x, const Tensor& y, const Saved& saved) const;
  /// dy becomes dx in the groups.
  void backward(Context& ctx, const Tensor& dy, const Tensor& x, const Saved& saved) const;

 private:
  struct Part {
    RowGroups groups;
    float count;   // elements of a norm, over all ranks
    float copies;  // ranks of tp that have the same part
    Parameter& weight;
  };
  Part part(Parameters& parameters, PublicTensor weight, std::int64_t first, std::int64_t heads,
            std::int64_t all_heads) const;
  void sum(Context& ctx, const Part& part, const Tensor& sums) const;
  Tensor squares(Context& ctx, const Part& part, const Tensor& x) const;
  void apply(Context& ctx, const Part& part, const Tensor& x, const Tensor& squares,
             const Tensor& y) const;
  void pull_back(Context& ctx, const Part& part, const Tensor& dy, const Tensor& x,
                 const Tensor& squares) const;

  bool whole_;  // over the projection
  std::int64_t head_dim_;
  float eps_;
  Part q_, k_;
};

}  // namespace moesaic::model
