#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "config/config.h"
#include "model/context.h"
#include "model/layers/adapter.h"
#include "model/parameter/parameters.h"

namespace moesaic::model {

/// The experts of this rank, by their numbers: SwiGLUs over rows grouped by expert. F is split over
/// tp unless the experts are folded; y is this rank's term then. x, y: (R, D) compute   gate_up:
/// (E_local, 2F, D)   down: (E_local, D, F), each perhaps with a bias (model.expert_bias)
class Experts {
 public:
  struct Saved {
    Tensor x, gate_up;  // (R, D) where gate or up is trained or has an adapter, (R, 2F)
    Adapter::Saved gate_up_adapter, down_adapter;
  };

  /// prefix: "model.layers.N.mlp.experts."
  Experts(Parameters& parameters, const std::string& prefix, std::span<const std::int32_t> numbers,
          const config::Model& model, double init_std, double output_std, bool buffered,
          const Placement& placement);

  /// offsets: [count + 1] of each expert's rows. x, y: (R, D) compute. Collective over tp where
  /// multiply is (linear.h).
  Tensor forward(Context& ctx, const Tensor& x, const Tensor& offsets, Saved* saved) const;
  /// dy, dx: (R, D) compute. Adds into the gradients. Not collective.
  Tensor backward(Context& ctx, const Tensor& dy, const Tensor& offsets, const Saved& saved) const;

  /// The stacked parameters. Each is cut into equal slices, one per expert of this rank, in order.
  std::vector<Parameter*> parameters() const;

 private:
  void add_biases(Parameters& parameters, const std::string& prefix,
                  std::span<const std::int32_t> numbers, const config::Model& model, bool buffered,
                  const Placement& placement);

  std::int64_t hidden_;
  float limit_;  // of SwiGLU
  Parameter& gate_up_;
  std::optional<Adapter> gate_up_adapter_;
  Parameter& down_;
  std::optional<Adapter> down_adapter_;
  Parameter* gate_up_bias_ = nullptr;  // (E_local 2F)
  Parameter* down_bias_ = nullptr;     // (E_local D)
  bool adds_down_bias_;                // else another rank of tp does
};

}  // namespace moesaic::model
