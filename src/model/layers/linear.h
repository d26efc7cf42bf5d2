#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "model/context.h"
#include "model/layers/adapter.h"
#include "model/parameter/parameters.h"

namespace moesaic::model {

/// y (R, N) = x (R, K) w^T, with rows [offsets[g], offsets[g + 1]) and the weights of group g; w
/// (N, K) or (G, N, K), as they are kept. Collective over tp where its ranks share a block of
/// columns of quantized weights.
void multiply(Context& ctx, const Tensor& x, const Tensor& offsets, const Parameter& weight,
              const Tensor& y);

/// Adds dy^T x into the gradient of a weight's trained rows: rows [offsets[g], offsets[g + 1]) of x
/// (R, K) and dy (R, N), compute, met group g. Nothing where it is frozen. Not collective.
void add_weight_gradient(Context& ctx, const Tensor& dy, const Tensor& x, const Tensor& offsets,
                         const Parameter& weight);
/// The same of a bias (G N): sums of the rows of dy.
void add_bias_gradient(Context& ctx, const Tensor& dy, const Tensor& offsets,
                       const Parameter& bias);

/// Columns of a matrix (R, N), side by side; the matrix itself if these are all.
Tensor columns_of(Context& ctx, const Tensor& x, Slice columns);

/// Adds the rows that are trained of what `backward` adds to a gradient of the whole parameter.
void add_gradient(Context& ctx, const Parameter& parameter,
                  const std::function<void(const Tensor&)>& backward);

/// What a product has besides weights.
struct LinearOptions {
  std::vector<PublicTensor> bias = {};  // (out) stacked as the weights; empty: none
  bool adds_bias = true;                // false: to its term of y another rank of tp does
  SumOver sum = SumOver::kReplicas;     // of the weights' gradient
  bool packable = true;                 // see ParameterSpec
};

/// y = x weight^T + bias, and the update of an adapter.
/// x: (T, in) compute   weight: (out, in), this rank's slices, stacked
/// y is fp32 where it joins the residual stream, else compute. dx is
/// fp32 where x came from the stream. forward is collective where multiply is; backward is not.
class Linear {
 public:
  enum class Full { kOutput, kInputGradient, kBoth };  // which of the two is fp32
  struct Saved {
    Tensor x;  // where the weight is trained, or has an adapter
    Adapter::Saved adapter;
  };

  Linear(Parameters& parameters, const std::vector<PublicTensor>& tensors, Full full,
         double init_std, const Placement& placement, const LinearOptions& options = {});
  Tensor forward(Context& ctx, const Tensor& x, Saved* saved) const;
  Tensor backward(Context& ctx, const Tensor& dy, const Saved& saved) const;

  const Tensor& weight() const { return weight_.compute; }

 private:
  Parameter& weight_;
  std::optional<Adapter> adapter_;
  Parameter* bias_ = nullptr;
  bool adds_bias_;
  Full full_;
};
static_assert(Layer<Linear>);

}  // namespace moesaic::model
