#pragma once

#include <concepts>
#include <cstdint>
#include <functional>
#include <memory>
#include <type_traits>
#include <utility>

#include "backend/backend.h"
#include "backend/phase_clock.h"
#include "comm/collectives.h"
#include "data/micro_batch.h"
#include "model/context_share.h"
#include "model/device_batch.h"
#include "model/observers.h"
#include "model/paged_cache.h"

namespace moesaic::model {

struct Routes;

/// Where layers compute and with whom: the same for all that an instance does.
struct Device {
  Backend& backend;
  comm::Collectives& tp;        // the ranks that share each layer of this micro-batch
  comm::Collectives& cp;        // those that share its rows
  comm::Collectives& experts;   // those that share out whole experts
  PhaseClock& clock;            // seconds are booked on it
  DType compute = DType::kF32;  // of matrix products
  bool sequence = false;        // the ranks of tp share the rows outside of the layers' products
  bool counts = true;           // what all that share a micro-batch know of it (Mesh::counts)

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

/// What layers compute on, and how the job wants it done.
struct Batch {
  const data::MicroBatch* whole = nullptr;  // set_batch sets these
  const data::MicroBatch* host = nullptr;   // the rows of it that this rank of cp has: T of them
  std::shared_ptr<const ContextShare> share = {};
  DeviceBatch device = {};  // what kernels read of these rows
  // Where keys and values of earlier tokens are, and those of the micro-batch go (its runs say
  // where); absent: the micro-batch is all there is.
  const PagedCache* cache = nullptr;
  Routes* routes = nullptr;      // of a block that is computed again in backward: the first forward
                                 // fills them in
  std::int64_t step = 1;         // of training; moves a forced hot expert on
  std::int64_t step_tokens = 1;  // of the global batch: weighs the auxiliary losses
  bool dropless = false;         // ignore the capacity (evaluation, score)
  bool recompute = false;        // keep a block's input alone, compute the rest again in backward
};

/// What every layer needs besides its input: a device, the batch, and who looks on.
struct Context : Device {
  Batch batch = {};
  Observers observers = {};

  /// The same without observers: for what they have seen before.
  Context unobserved() const { return {static_cast<const Device&>(*this), batch, {}}; }

  /// Tells an event to all observers that want it: tell(&Observer::on_route, {...}).
  template <class Event>
  void tell(std::function<void(const Event&)> Observer::*wanted,
            const std::type_identity_t<Event>& event) const {
    for (const Observer& observer : observers) {
      if (observer.*wanted) {
        (observer.*wanted)(event);
      }
    }
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
