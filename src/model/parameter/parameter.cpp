#include "model/parameter/parameter.h"

#include <algorithm>

#include "base/share.h"
#include "tensor/rng.h"

namespace moesaic::model {

void ParameterSpec::place_tensors() {
  std::int64_t total = 0;
  for (PublicTensor& tensor : tensors) {
    tensor.begin = total;
    total += tensor.slice_shape().numel();
  }
  require(total == shape.numel(), "public tensors do not fill " + tensors.front().name);
}

Kept kept(const ParameterSpec& spec, DType compute, bool trained, std::optional<DType> pack) {
  const bool packed = !trained && pack && spec.in_products && spec.packable;
  const bool narrow = spec.in_products && compute != DType::kF32;
  return {.values = trained || spec.looked_up || (!narrow && !packed),
          .copy = narrow && !packed,
          .packed = packed};
}

std::vector<float> initial_values(const ParameterSpec& spec, const PublicTensor& tensor,
                                  std::int64_t seed) {
  std::vector<float> values(static_cast<std::size_t>(tensor.slice_shape().numel()));
  make_initial_values(spec, tensor, seed, values, 1);
  return values;
}

void make_initial_values(const ParameterSpec& spec, const PublicTensor& tensor, std::int64_t seed,
                         std::span<float> values, int threads) {
  if (!(spec.init_std > 0.0 || spec.init_bound > 0.0)) {
    std::fill(values.begin(), values.end(), static_cast<float>(spec.init_value));
    return;
  }
  const Rng rng(static_cast<std::uint64_t>(spec.seed.value_or(seed)), hash_name(tensor.name));
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
  for (std::size_t i = 0; i < values.size(); ++i) {
    const auto index = static_cast<std::uint64_t>(tensor.whole_index(static_cast<std::int64_t>(i)));
    values[i] = static_cast<float>(spec.init_std > 0.0
                                       ? spec.init_std * rng.normal(index)
                                       : spec.init_bound * (2.0 * rng.uniform(index) - 1.0));
  }
}

std::int64_t Parameter::columns() const {
  return spec.shape.rank() == 1 ? 1 : spec.shape[spec.shape.rank() - 1];
}

Tensor Parameter::rows_of(const Tensor& tensor, Slice rows) const {
  return tensor.reshaped({all_rows().count, columns()}).rows(rows.begin, rows.count);
}

Slice Parameter::rows_with(const PublicTensor& tensor) const {
  return {tensor.begin / columns(), tensor.slice_shape().numel() / columns()};
}

std::int64_t Parameter::trained_rows() const {
  return trained.empty() ? 0 : trained.back().first + trained.back().rows.count;
}

Slice Parameter::trained_in(Slice rows) const {
  Slice found{0, 0};
  for (const TrainedRows& one : trained) {
    const Slice both = overlap(one.rows, rows);
    if (both.count > 0) {
      const std::int64_t first = one.first + both.begin - one.rows.begin;
      found = found.count == 0 ? Slice{first, both.count}
                               : Slice{found.begin, first + both.count - found.begin};
    }
  }
  return found;
}

Tensor Parameter::grad_rows(Slice of_trained) const {
  return grad.reshaped({trained_rows(), columns()}).rows(of_trained.begin, of_trained.count);
}

void Parameter::hold_aligned_blocks() {
  if (spec.tensors.empty() || spec.tensors.front().dim != 1) {
    return;
  }
  const PublicTensor& first = spec.tensors.front();
  own_columns = {first.slice.begin, first.slice.count, first.shape[1]};
  const Slice blocks = own_columns->blocks();
  for (PublicTensor& tensor : spec.tensors) {
    tensor.slice = blocks;
  }
  spec.shape.set(spec.shape.rank() - 1, blocks.count);
  spec.place_tensors();
}

}  // namespace moesaic::model
