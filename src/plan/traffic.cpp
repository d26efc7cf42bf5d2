#include "plan/traffic.h"

#include <numeric>

#include "plan/backward.h"
#include "plan/context_traffic.h"
#include "plan/memory.h"
#include "plan/numbers.h"
#include "plan/rank_model.h"

namespace moesaic::plan {
namespace {

/// Share of a ring's data that each of its members sends.
double ring(std::int64_t members) { return real(members - 1) / real(members); }

/// Rows of one micro-batch over tp, forward and backward through one stage.
double rows_over_tp(const config::Config& config, const Layout& layout, const Stage& stage,
                    const Reached& reached, double tokens, double width) {
  const double d = real(config.model.d_model);
  const double layers = real(stage.dense + stage.moe);
  // A sum of all terms goes around in fp32; with the sequence split it is a share's sum, and the
  // rows are gathered before, in the type of products on the way forward.
  const double sum = (layout.sequence ? 1.0 : 2.0) * kFp32 * tokens * d;
  const double gather = layout.sequence ? width * tokens * d : 0.0;
  const double gather_gradient = layout.sequence ? kFp32 * tokens * d : 0.0;
  // Norms over all heads: one number of a token for queries and one for keys.
  const bool whole_norm = config.model.qk_norm == config::QkNorm::kProjection;
  const double norms = whole_norm ? 2.0 * 2.0 * kFp32 * tokens : 0.0;
  const double forward = 2.0 * (sum + gather) + norms;  // of a layer
  const double backward = 2.0 * (sum + gather_gradient) + norms;
  double bytes =
      forward * layers + (forward * (layout.recompute ? 1.0 : 0.0) + backward) * reached.all;
  if (stage.embedding) {
    bytes += sum + (reached.embedding ? gather_gradient : 0.0);
  }
  if (stage.head) {
    bytes += gather + (reached.hidden ? sum : 0.0);
  }
  if (!layout.folded) {  // gradients of the choices' weights
    bytes += 2.0 * kFp32 * reached.moe * tokens * real(config.model.top_k);
  }
  return bytes * ring(layout.tp);
}

// What each rank tells the others of its choices: experts and weights; where choices may be
// rerouted, where they would go instead, and the weights again. Bytes of a token and step.
double choices_of_token(const config::Config& config, const Layout& layout, const Stage& stage,
                        const Reached& reached, std::int64_t experts) {
  const config::Router& router = config.router;
  const bool limited = router.capacity > 0 || router.capacity_factor > 0.0;
  const bool may_move = limited && router.overflow != config::Overflow::kDrop;
  const double bytes = kFp32 * ((may_move ? 3.0 : 2.0) * real(config.model.top_k) +
                                (may_move ? real(experts) : 0.0));
  return bytes * (real(stage.moe) + (layout.recompute ? reached.moe : 0.0));
}

}  // namespace

double Traffic::sum() const { return std::accumulate(bytes_.begin(), bytes_.end(), 0.0); }

Traffic traffic_per_step(const config::Config& config, const Layout& layout, std::int64_t stage,
                         const routing::GateState& gates, std::int64_t tp_rank,
                         const model::Tuning& tuning) {
  const config::Model& m = config.model;
  const RankModel rank(config, layout, stage, gates, tp_rank, tuning);
  const Held held = held_by(rank);
  const Reached reached = reached_by_backward(m, layout, stage, rank);
  const Stage s = stage_of(m, layout, stage);
  const double whole = real(config.train.micro_batch * config.data.seq_len);
  const double tokens = own_rows(layout, whole);
  const double micro_batches = real(micro_batches_per_rank(config.train, layout));
  const double width = compute_width(config);
  const double rows = s.moe > 0 ? sent_rows(config, layout, whole) : 0.0;
  const double outside = layout.sequence ? tokens / real(layout.tp) : tokens;
  // Chunks whose result goes to another stage: all but the model's last; and back, all but its
  // first, as far as anything is trained below.
  const double forward = real(layout.chunks) - (s.head ? 1.0 : 0.0);
  double backward = 0.0;
  for (int c = 0; c < rank.transformer.chunks(); ++c) {
    backward += rank.transformer.sends_gradient(c) ? 1.0 : 0.0;
  }

  using comm::Group;
  Traffic traffic;
  const double choices = choices_of_token(config, layout, s, reached, rank.transformer.experts());
  traffic[Group::kTp] = micro_batches * (rows_over_tp(config, layout, s, reached, tokens, width) +
                                         choices * tokens * ring(layout.tp));
  // There and back, forward and backward; and forward once more where it is computed again.
  traffic[Group::kEp] = 2.0 * (real(s.moe) + (layout.recompute ? 2.0 : 1.0) * reached.moe) *
                        micro_batches * rows * real(m.d_model) * width *
                        ring(layout.expert_ranks());
  traffic[Group::kPp] = micro_batches * (forward + backward) * kFp32 * outside * real(m.d_model);
  traffic[Group::kDp] = 2.0 * kFp32 * held.experts * ring(layout.expert_copies());
  traffic[Group::kExpertStage] =
      2.0 * kFp32 * held.summed_over_expert_stage * ring(layout.expert_copies() * layout.tp);
  traffic[Group::kReplicas] = 2.0 * kFp32 * held.others * ring(layout.copies());
  traffic[Group::kStage] = 2.0 * kFp32 * held.summed_over_stage * ring(layout.copies() * layout.tp);
  if (held.tied > 0.0) {
    traffic[Group::kEnds] = 2.0 * kFp32 * held.tied * ring(2);
  }
  traffic[Group::kKv] = 2.0 * kFp32 * held.partial * ring(kv_copies(m.kv_heads, layout.tp));
  traffic[Group::kCp] =
      micro_batches * (real(s.dense + s.moe) * context_traffic(config, layout, whole) +
                       choices * whole * ring(layout.cp));
  return traffic;
}

}  // namespace moesaic::plan
