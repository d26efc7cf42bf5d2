#pragma once

#include <optional>
#include <string>
#include <vector>

#include "config/config.h"
#include "model/context.h"
#include "model/layers/adapter.h"
#include "model/parameter/parameters.h"
#include "routing/dispatch_plan.h"
#include "routing/expert_pool.h"

namespace moesaic::model {

/// Scores the E experts for each token and chooses up to top_k of them. Each rank of tp and cp
/// routes its own t of the micro-batch's T rows; all of them learn all choices.
/// x: (t, D) compute; logits, scores, weights: fp32 in every precision.
/// Logits: x gate^T; with task_gate those of a gate of two layers: attention of the token's query
/// over one key for each expert, (W x) . key / sqrt(d), of which the best candidates go on; to
/// these the weights of the token's task are added, and perhaps a bias. Then the temperature
/// divides; Backend::route says how logits become scores, choices and weights.
/// Auxiliary terms, averaged over the global batch's tokens:
///   aux = R / C sum_e n_e P_e  (Fedus et al. 2022, eq. 4) for R regular experts, with n_e of the C
///   choices, over the tokens that aux_scope names; P_e from scores normalised to sum 1
///   z   = mean(logsumexp(logits)^2)  (Zoph et al. 2022, eq. 5)
/// With balance=bias the choice is by score + bias (DeepSeek-V3, section 2.1.2).
class Router {
 public:
  struct Choice {
    Tensor expert, weight;          // (t, K) int32, best first; -1: none, and fp32
    Tensor all_expert, all_weight;  // (T, K) of all rows of the micro-batch
  };
  struct Saved {
    Tensor x, query;  // x where it is trained; query (t, d) of two layers
    Adapter::Saved adapter;
    RouteTensors routed;  // what backward needs of it; selection until the choices are planned
    Tensor choice;        // (t, K) whose scores the weights are made from
    Tensor daux;          // (S, E) fp32 of each segment
  };

  /// prefix: "model.layers.N.mlp."; moe_layer: its index among the MoE layers.
  Router(Parameters& parameters, const std::string& prefix, const config::Model& model,
         const config::Router& options, std::int64_t moe_layer,
         const routing::ExpertPool& expert_pool, const std::vector<std::string>& tasks,
         double init_std, const Placement& placement);

  /// Collective over tp and cp.
  Choice forward(Context& ctx, const Tensor& x, Saved& saved) const;
  /// (T, E) fp32, how willingly each token would go elsewhere. Once, before `move`. Collective over
  /// tp and cp.
  Tensor all_selection(Context& ctx, Saved& saved) const;
  /// experts [T, K]: the one that computes each choice, whose score gives the weight as if the
  /// token had chosen it; empty: all are as they were. What is sent depends on the sizes alone.
  /// Collective over tp and cp.
  void move(Context& ctx, const std::vector<std::int32_t>& experts, Choice& choice,
            Saved& saved) const;
  /// dweight: (t, K) fp32; returns dx: (t, D) fp32. Adds into the gradients. Not collective.
  Tensor backward(Context& ctx, const Tensor& dweight, const Saved& saved) const;

  /// Whether training changes its weights; else its counts stand still, too. An adapter does not
  /// count: a base with adapters has the counts of the base.
  bool is_trained() const {
    return gate_.is_trained() || (query_ != nullptr && query_->is_trained());
  }

  // Values that training moves but no gradient does; the first two only if the config has a use for
  // them.
  /// (E) fp32, added to the scores for the choice alone: balance = bias.
  Parameter* bias() const { return bias_; }
  /// (E) fp32, each regular expert's share of the choices of the step before: aux_scope = batch.
  Parameter* previous_load() const { return previous_load_; }
  /// (E) fp32, each expert's share of the computed rows: a mean over about the last 100 steps.
  const Parameter& load() const { return load_; }

 private:
  Tensor logits(Context& ctx, const Tensor& x, Saved& saved) const;
  float query_scale() const;
  Tensor own_tasks(Context& ctx) const;
  std::span<const std::int32_t> segments(const Context& ctx) const;
  Tensor aux_gradient(Context& ctx, const Choice& choice) const;
  void force(Context& ctx, const Tensor& scores, Choice& choice) const;

  RouteOptions options_;
  config::Force force_;
  config::AuxScope aux_scope_;
  double aux_loss_, z_loss_;
  std::int64_t moe_layer_, tasks_;
  routing::ExpertPool expert_pool_;
  Parameter& gate_;                    // (E, D), or the keys (E, d)
  std::optional<Adapter> adapter_;     // of the gate
  Parameter& load_;                    // (E)
  Parameter* query_ = nullptr;         // (d, D)
  Parameter* gate_bias_ = nullptr;     // (E)
  Parameter* task_weights_ = nullptr;  // (tasks E)
  Parameter* bias_ = nullptr;
  Parameter* previous_load_ = nullptr;
};

}  // namespace moesaic::model
