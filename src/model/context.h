#pragma once

#include <concepts>
#include <functional>
#include <utility>

#include "backend/backend.h"
#include "base/phase_clock.h"
#include "comm/collectives.h"
#include "data/micro_batch.h"
#include "model/activation_statistics.h"
#include "model/device_batch.h"
#include "model/moe_stats.h"
#include "model/paged_cache.h"
#include "routing/routed_rows.h"

namespace moesaic::model {

class ExpertErrors;

/// What every layer needs besides its input: where to compute, with whom, and on which micro-batch.
struct Context {
  Backend& backend;
  comm::Collectives& tp;       // the ranks that share each layer of this micro-batch
  comm::Collectives& experts;  // those that share out whole experts
  PhaseClock& clock;
  DType compute = DType::kF32;  // of matrix products
  const data::MicroBatch* host_batch = nullptr;
  DeviceBatch batch;
  MoeStats* stats = nullptr;                           // where MoE layers count; may be absent
  std::vector<routing::RoutedRows>* routed = nullptr;  // each token's routing; may be absent
  // Where keys and values of earlier tokens are, and those of the micro-batch go (its runs say
  // where); absent: the micro-batch is all there is.
  const PagedCache* cache = nullptr;
  ActivationStatistics* activation_statistics =
      nullptr;                            // of the input of each product; may be absent
  ExpertErrors* expert_errors = nullptr;  // told the experts' outputs; may be absent
  bool sequence = false;   // the ranks of tp share the rows outside of the layers' products
  bool recompute = false;  // keep a block's input alone and compute the rest again in backward
  bool dropless = false;   // ignore the capacity (evaluation, score)
  std::int64_t step = 1;   // of training; moves a forced hot expert on
  std::int64_t step_tokens = 1;  // of the global batch: weighs the auxiliary losses
  /// Told in the step's last backward through a part that its gradients are complete; may be empty.
  std::function<void(int part)> on_part_done;

  void part_is_done(int part) const {
    if (on_part_done) {
      on_part_done(part);
    }
  }

  Tensor empty(DType dtype, const Shape& shape) const { return backend.empty(dtype, shape); }
  Tensor zeros(DType dtype, const Shape& shape) const {
    Tensor tensor = backend.empty(dtype, shape);
    backend.zero(tensor);
    return tensor;
  }
  /// The tensor itself if it has this dtype, else a converted copy.
  Tensor as(DType dtype, const Tensor& x) const {
    if (x.dtype() == dtype) {
      return x;
    }
    Tensor converted = backend.empty(dtype, x.shape());
    backend.convert(x, converted);
    return converted;
  }
};

/// A value with forward and backward. What backward needs is in Saved, which the caller owns, so
/// that many micro-batches can be in flight; nullptr: inference. backward returns dx and adds into
/// the gradients of the parameters.
template <class L>
concept Layer = requires(const L layer, Context& ctx, const Tensor& x, typename L::Saved& saved) {
  { layer.forward(ctx, x, &saved) } -> std::same_as<Tensor>;
  { layer.backward(ctx, x, std::as_const(saved)) } -> std::same_as<Tensor>;
};

}  // namespace moesaic::model
