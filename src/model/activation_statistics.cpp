#include "model/activation_statistics.h"

#include "backend/transfer.h"
#include "model/context.h"

namespace moesaic::model {

Observer ActivationStatistics::observer() {
  return {.on_linear = [this](const LinearEvent& event) { add(event); }};
}

void ActivationStatistics::add(const LinearEvent& event) {
  const std::vector<std::int64_t> offsets =
      offsets_on_host(event.device.backend, event.offsets, event.x.dim(0));
  const std::int64_t columns = event.x.dim(1);
  const std::vector<float> values =
      to_host_f32(event.device.backend, event.device.as(DType::kF32, event.x));
  Sums& sums = sums_[&event.weight];
  sums.rows.resize(offsets.size() - 1);
  sums.squares.resize(sums.rows.size() * static_cast<std::size_t>(columns));
  for (std::size_t g = 0; g + 1 < offsets.size(); ++g) {
    double* const group = sums.squares.data() + static_cast<std::int64_t>(g) * columns;
    for (std::int64_t row = offsets[g]; row < offsets[g + 1]; ++row) {
      const float* const from = values.data() + row * columns;
      for (std::int64_t k = 0; k < columns; ++k) {
        group[k] += static_cast<double>(from[k]) * static_cast<double>(from[k]);
      }
    }
    sums.rows[g] += offsets[g + 1] - offsets[g];
  }
}

const ActivationStatistics::Sums* ActivationStatistics::of(const Parameter& weight) const {
  const auto found = sums_.find(&weight);
  return found == sums_.end() ? nullptr : &found->second;
}

}  // namespace moesaic::model
