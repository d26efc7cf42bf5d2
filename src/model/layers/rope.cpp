#include "model/layers/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace moesaic::model {
namespace {

using config::RopeScaling;

double yarn_magnitude(double factor, double mscale) {
  return factor <= 1.0 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

double magnitude(const config::Model& m) {
  if (m.rope_scaling != RopeScaling::kYarn) {
    return 1.0;
  }
  if (m.rope_attention_factor > 0.0) {
    return m.rope_attention_factor;
  }
  if (m.rope_mscale > 0.0 && m.rope_mscale_all_dim > 0.0) {
    return yarn_magnitude(m.rope_factor, m.rope_mscale) /
           yarn_magnitude(m.rope_factor, m.rope_mscale_all_dim);
  }
  return yarn_magnitude(m.rope_factor, 1.0);
}

// Where between staying (0) and being stretched (1) each pair is.
std::vector<double> yarn_ramp(const config::Model& m, std::int64_t width) {
  const auto d = static_cast<double>(width);
  // The pair that turns so often within the original context.
  const auto pair_of = [&](double turns) {
    const auto context = static_cast<double>(m.rope_original_max_seq);
    return d * std::log(context / (2.0 * std::numbers::pi * turns)) /
           (2.0 * std::log(m.rope_theta));
  };
  double low = pair_of(m.rope_beta_fast);
  double high = pair_of(m.rope_beta_slow);
  if (m.rope_truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, d - 1.0);
  const double length = low == high ? 0.001 : high - low;
  std::vector<double> ramp;
  for (std::int64_t i = 0; i < width / 2; ++i) {
    ramp.push_back(std::clamp((static_cast<double>(i) - low) / length, 0.0, 1.0));
  }
  return ramp;
}

std::vector<float> frequencies(const config::Model& m, std::int64_t width) {
  const std::vector<double> stretched =
      m.rope_scaling == RopeScaling::kYarn
          ? yarn_ramp(m, width)
          : std::vector<double>(static_cast<std::size_t>(width / 2),
                                m.rope_scaling == RopeScaling::kLinear ? 1.0 : 0.0);
  std::vector<float> list;
  for (std::size_t i = 0; i < stretched.size(); ++i) {
    const double plain =
        std::pow(m.rope_theta, -2.0 * static_cast<double>(i) / static_cast<double>(width));
    list.push_back(
        static_cast<float>(plain * (1.0 - stretched[i]) + plain / m.rope_factor * stretched[i]));
  }
  return list;
}

}  // namespace

Rope::Rope(Parameters& parameters, const config::Model& model, std::int64_t width)
    : width_(width),
      frequencies_(parameters.add_constant(model::frequencies(model, width))),
      options_{.interleave = model.rope_interleave,
               .magnitude = static_cast<float>(model::magnitude(model))} {}

void Rope::rotate(Context& ctx, const Tensor& x, RowGroups heads, Direction direction) const {
  heads.width = width_;
  ctx.backend.rope(x, heads, ctx.batch.device.position, frequencies_.tensor, options_, direction);
}

double yarn_score_factor(const config::Model& model) {
  if (model.rope_scaling != RopeScaling::kYarn || model.rope_mscale_all_dim == 0.0) {
    return 1.0;
  }
  const double factor = yarn_magnitude(model.rope_factor, model.rope_mscale_all_dim);
  return factor * factor;
}

}  // namespace moesaic::model
