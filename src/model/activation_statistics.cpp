#include "model/activation_statistics.h"

#include "backend/transfer.h"
#include "data/micro_batch.h"
#include "model/parameter/parameters.h"

namespace moesaic::model {

void ActivationStatistics::add(Backend& backend, const Tensor& x,
                               std::span<const std::int64_t> offsets, const Parameter& weight) {
  const std::int64_t columns = x.dim(1);
  Tensor wide = x;
  if (x.dtype() != DType::kF32) {
    wide = backend.empty(DType::kF32, x.shape());
    backend.convert(x, wide);
  }
  const std::vector<float> values = to_host_f32(backend, wide);
  Sums& sums = sums_[&weight];
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
