#pragma once

#include <optional>
#include <string>

#include "config/config.h"
#include "model/context.h"
#include "model/layers/dispatch.h"
#include "model/layers/experts.h"
#include "model/layers/router.h"
#include "model/layers/swiglu.h"
#include "routing/dispatch_plan.h"

namespace moesaic::model {

/// Mixture of experts: router -> plan -> dispatch -> experts -> combine, plus the shared experts.
/// The micro-batch is planned as a whole, the rows of all ranks of cp together. Over tp, experts
/// are split as dense layers are and every rank sends all T rows; or, folded, they are whole and
/// each rank sends its own rows. x: (T, D) compute   y: (T, D) fp32, this rank's term. Collective
/// over tp, cp and experts.
class Moe {
 public:
  struct Saved {
    Router::Saved router;
    Experts::Saved experts;
    Swiglu::Saved shared;
    Routes routes;
    Tensor position;  // (S, K) int32 of the S rows that this rank sends
    Tensor weight;    // (S, K) fp32
    Tensor rows;      // (R, D) outputs of the experts, in plan order
  };

  /// prefix: "model.layers.N.mlp."; moe_layer: its index among the MoE layers.
  Moe(Parameters& parameters, const std::string& prefix, const config::Model& model,
      const config::Router& options, std::int64_t moe_layer, const routing::ExpertPool& expert_pool,
      const std::vector<std::string>& tasks, double init_std, double output_std,
      const Placement& placement);

  Tensor forward(Context& ctx, const Tensor& x, Saved* saved) const;
  Tensor backward(Context& ctx, const Tensor& dy, const Saved& saved) const;  // dx: fp32

  const Router& router() const { return router_; }
  const Experts& experts() const { return experts_; }
  const routing::ExpertPool& expert_pool() const { return expert_pool_; }
  /// The experts of this rank.
  std::span<const std::int32_t> expert_ids() const;
  /// (3, E) fp32: steps whose gradients are deferred, tokens processed in them, and updates so
  /// far; undefined without a gradient buffer.
  Parameter* buffer_state() const { return buffer_state_; }

 private:
  struct Targets {
    Tensor expert, weight;  // (S, K) of the rows that this rank sends
  };
  struct SentRows {
    Tensor source, offsets;  // as Backend::lay_rows has them
  };
  Targets targets(Context& ctx, const Tensor& x, Saved& saved) const;
  routing::DispatchPlan move(Context& ctx, const routing::SlotRule& rule, Router::Choice& choice,
                             Saved& saved) const;
  SentRows route(Context& ctx, const Tensor& x, Saved& saved) const;
  Routes routes_of(Context& ctx, const SentRows& rows) const;
  routing::SlotRule rule(const Context& ctx) const;
  Slice sent_rows(const Context& ctx) const;
  Tensor add_to_shared(Context& ctx, const Tensor& sent, const Tensor& shared) const;

  std::int64_t moe_layer_, top_k_, capacity_;
  double capacity_factor_;
  config::Overflow overflow_;
  bool folded_;
  routing::ExpertPool expert_pool_;
  Router router_;
  Experts experts_;
  std::optional<Swiglu> shared_;
  std::size_t expert_rank_;
  Parameter* buffer_state_ = nullptr;
};
static_assert(Layer<Moe>);

}  // namespace moesaic::model
