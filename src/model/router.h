#pragma once

#include <string>
#include <vector>

#include "config/config.h"
#include "model/context.h"
#include "model/parameters.h"

namespace moesaic::model {

/// Scores the experts for each token and chooses top_k of them. Each rank of tp routes its own t of
/// the micro-batch's T rows; all of them learn all choices.
/// x: (t, D) compute; logits, scores, weights: fp32 in every precision.
/// Auxiliary terms, averaged over the global batch's tokens:
///   aux = E / (K T) sum_e n_e P_e  (Fedus et al. 2022, eq. 4), P_e from scores normalised to sum 1
///   z   = mean(logsumexp(logits)^2)  (Zoph et al. 2022, eq. 5)
/// With balance=bias the choice is by score + bias (DeepSeek-V3, section 2.1.2).
class Router {
 public:
  struct Choice {
    Tensor expert;                          // (t, K) int32, best first
    Tensor weight;                          // (t, K) fp32
    std::vector<std::int32_t> host_expert;  // [T, K], of all rows
    std::vector<float> host_weight;         // [T, K]
  };
  struct Saved {
    Tensor x, logits, scores;
    Choice choice;
    std::vector<double> counts;  // [E] choices of each expert in this micro-batch
  };

  /// prefix: "model.layers.N.mlp."; moe_layer: its index among the MoE layers.
  Router(Parameters& parameters, const std::string& prefix, const config::Model& model,
         const config::Router& options, std::int64_t moe_layer, double init_std,
         const Placement& place);

  /// Collective over tp.
  Choice forward(Context& ctx, const Tensor& x, Saved* saved) const;
  /// dweight: (t, K) fp32; returns dx: (t, D) fp32.
  Tensor backward(Context& ctx, const Tensor& dweight, const Saved& saved) const;

  /// (E) fp32, added to the scores for the choice alone; undefined unless balance = bias.
  Parameter* bias() const { return bias_; }

 private:
  void force(Context& ctx, const Tensor& scores, Choice& choice) const;

  RouteOptions options_;
  config::Force force_;
  double aux_loss_, z_loss_;
  std::int64_t moe_layer_, experts_;
  Parameter& gate_;
  Parameter* bias_ = nullptr;
};

}  // namespace moesaic::model
