#pragma once

#include <array>
#include <span>
#include <string>

#include "model/context.h"
#include "model/parameters.h"

namespace moesaic::model {

/// The experts of this rank, by their numbers: SwiGLUs over rows grouped by expert. F is split over
/// tp unless the experts are folded; y is this rank's term then. x, y: (R, D) compute   gate_up:
/// (E_local, 2F, D)   down: (E_local, D, F)
class Experts {
 public:
  struct Saved {
    Tensor x, gate_up;  // (R, D), (R, 2F)
  };

  /// prefix: "model.layers.N.mlp.experts."
  Experts(Parameters& parameters, const std::string& prefix, std::span<const std::int32_t> numbers,
          std::int64_t d_model, std::int64_t hidden, double init_std, double output_std,
          bool buffered, const Placement& place);

  /// offsets: [count + 1] of each expert's rows.
  Tensor forward(Context& ctx, const Tensor& x, std::span<const std::int64_t> offsets,
                 Saved* saved) const;
  Tensor backward(Context& ctx, const Tensor& dy, std::span<const std::int64_t> offsets,
                  const Saved& saved) const;  // dx: compute

  /// Each with the experts of this rank as its first dim.
  std::array<Parameter*, 2> parameters() const { return {&gate_up_, &down_}; }

 private:
  std::int64_t hidden_;
  Parameter& gate_up_;
  Parameter& down_;
};

}  // namespace moesaic::model
