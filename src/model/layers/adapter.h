#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "model/context.h"
#include "model/parameter/parameters.h"

namespace moesaic::model {

/// Low-rank updates beside a product: y += scale B A x (Hu et al. 2022), for those of the weight's
/// tensors that Parameters::adapters names. Each has its own A (r, in) and B (out, r); the A of
/// tensors that read the same x are one product.
/// Over tp: where the weight is split by rows, A is on every rank, whose output rows give a part of
/// its gradient; where it is split by columns, A is split with them, A x is a term of a sum, and so
/// is y, and B is on every rank. So an adapter sends nothing in forward or backward.
class Adapter {
 public:
  struct Saved {
    Tensor u;  // (R, targets r): scale A x
  };

  /// weight: (N, K), or (G, N, K) of experts, as it was added; over_tp: its products are shared out
  /// over tp. Nothing: no tensor of it has an adapter. kUsage: only some groups have one.
  static std::optional<Adapter> of(Parameters& parameters, const ParameterSpec& weight,
                                   const Placement& placement, bool over_tp);

  /// y (R, N) += its update for x (R, K); rows [offsets[g], offsets[g + 1]) are of group g.
  void forward(Context& ctx, const Tensor& x, const Tensor& offsets, const Tensor& y,
               Saved* saved) const;
  /// dy (R, N), x: as the products read them. Adds into the gradients, and to dx (R, K).
  void backward(Context& ctx, const Tensor& dy, const Tensor& x, const Tensor& offsets,
                const Saved& saved, const Tensor& dx) const;

 private:
  struct Target {
    Slice rows;    // of the weight in its group: columns of y
    Parameter* b;  // (N', r), or (G, N', r)
  };
  Slice columns(std::size_t target) const;

  Parameter* a_ = nullptr;  // (targets r, K), or (G, targets r, K)
  std::vector<Target> targets_;
  std::int64_t rank_ = 0;
  float scale_ = 0.0F;
};

}  // namespace moesaic::model
