#include "checkpoint/changed_checkpoint.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "tensor/rng.h"

namespace moesaic::checkpoint {
namespace {

// "model.layers.2.mlp.experts.5.up_proj.weight": where the number stands. Names like experts_held
// are tensors of single experts as well.
struct ExpertName {
  std::string before, after;
  std::int64_t number = 0;
};
std::optional<ExpertName> expert_of(const std::string& name) {
  const std::size_t experts = name.find(".mlp.experts");
  const std::size_t begin = experts == std::string::npos ? experts : name.find('.', experts + 5);
  if (begin == std::string::npos) {
    return std::nullopt;
  }
  ExpertName parts{.before = name.substr(0, begin + 1), .after = {}};
  const char* const end = name.data() + name.size();
  const auto [rest, error] = std::from_chars(name.data() + begin + 1, end, parts.number);
  parts.after = std::string(rest, end);
  return error == std::errc() ? std::optional(parts) : std::nullopt;
}

// Adds the noise of a copy to elements [first, first + values) of a tensor.
struct Noise {
  Noise(std::int64_t seed, const std::string& name, std::span<const float> source)
      : rng(static_cast<std::uint64_t>(seed), hash_name("copy " + name)) {
    constexpr double kShare = 0.01;
    double squares = 0.0;
    for (const float x : source) {
      squares += static_cast<double>(x) * static_cast<double>(x);
    }
    scale = kShare * std::sqrt(squares / static_cast<double>(source.size()));
  }
  float operator()(float value, std::int64_t element) const {
    return static_cast<float>(static_cast<double>(value) +
                              scale * rng.normal(static_cast<std::uint64_t>(element)));
  }
  Rng rng;
  double scale = 0.0;
};

std::int64_t volume(const std::vector<std::int64_t>& extent) {
  std::int64_t product = 1;
  for (const std::int64_t n : extent) {
    product *= n;
  }
  return product;
}

}  // namespace

std::optional<Shape> ChangedCheckpoint::stored_shape(const model::PublicTensor& tensor) const {
  const LayerChange* const layer = change_ != nullptr ? change_->of(tensor.name) : nullptr;
  if (layer == nullptr) {
    return tensor.shape;
  }
  if (tensor.rows != model::TensorRows::kOther) {
    Shape shape = tensor.shape;
    shape.set(0, layer->old_numbers());
    return shape;
  }
  const auto expert = expert_of(tensor.name);
  return expert && expert->number >= layer->old_numbers() ? std::nullopt
                                                          : std::optional(tensor.shape);
}

void ChangedCheckpoint::read(const std::string& moment, const model::ParameterSpec& spec,
                             const model::PublicTensor& tensor,
                             const std::vector<std::int64_t>& offset,
                             const std::vector<std::int64_t>& extent, std::span<float> values) {
  const LayerChange* const layer = change_ != nullptr ? change_->of(tensor.name) : nullptr;
  if (layer != nullptr && tensor.rows != model::TensorRows::kOther) {
    read_rows(*layer, moment, spec, tensor, offset, extent, values);
  } else if (stored_shape(tensor)) {
    checkpoint_.read(moment + tensor.name, offset, extent, values);
  } else if (moment.empty() && !spec.state) {
    make_expert(*layer, spec, tensor, values);
  }
}

std::vector<float> ChangedCheckpoint::whole(const std::string& name, const Shape& shape) {
  std::vector<std::int64_t> extent(static_cast<std::size_t>(shape.rank()));
  for (int i = 0; i < shape.rank(); ++i) {
    extent[static_cast<std::size_t>(i)] = shape[i];
  }
  std::vector<float> values(static_cast<std::size_t>(shape.numel()));
  checkpoint_.read(name, std::vector<std::int64_t>(extent.size(), 0), extent, values);
  return values;
}

void ChangedCheckpoint::read_rows(const LayerChange& layer, const std::string& moment,
                                  const model::ParameterSpec& spec,
                                  const model::PublicTensor& tensor,
                                  const std::vector<std::int64_t>& offset,
                                  const std::vector<std::int64_t>& extent,
                                  std::span<float> values) {
  const auto columns = static_cast<std::size_t>(volume(extent) / extent[0]);
  const std::int64_t old = std::clamp<std::int64_t>(layer.old_numbers() - offset[0], 0, extent[0]);
  std::vector<std::int64_t> stored = extent;
  stored[0] = old;
  if (old > 0) {
    checkpoint_.read(moment + tensor.name, offset, stored,
                     values.first(static_cast<std::size_t>(old) * columns));
  }
  for (std::int64_t row = old; row < extent[0] && moment.empty(); ++row) {
    make_row(layer, spec, tensor, offset[0] + row,
             values.subspan(static_cast<std::size_t>(row) * columns, columns));
  }
}

void ChangedCheckpoint::make_row(const LayerChange& layer, const model::ParameterSpec& spec,
                                 const model::PublicTensor& tensor, std::int64_t number,
                                 std::span<float> values) {
  const auto columns = static_cast<std::int64_t>(values.size());
  const std::int64_t first = number * columns;
  const std::int32_t source = layer.source[static_cast<std::size_t>(number - layer.old_numbers())];
  if (tensor.rows == model::TensorRows::kExpertsAnew) {
    return;
  }
  if (spec.state) {
    values[0] = layer.carried(whole(tensor.name, {layer.old_numbers()}), number);
  } else if (source == LayerChange::kFresh) {
    const std::vector<float> initial = model::initial_values(spec, tensor, change_->seed);
    std::copy_n(initial.begin() + first, columns, values.begin());
  } else {
    std::vector<std::int64_t> offset{source};
    std::vector<std::int64_t> extent{1};
    if (tensor.shape.rank() > 1) {
      offset.push_back(0);
      extent.push_back(columns);
    }
    checkpoint_.read(tensor.name, offset, extent, values);
    const Noise noise(change_->seed, tensor.name, values);
    for (std::int64_t i = 0; i < columns; ++i) {
      float& value = values[static_cast<std::size_t>(i)];
      value = noise(value, first + i);
    }
  }
}

void ChangedCheckpoint::make_expert(const LayerChange& layer, const model::ParameterSpec& spec,
                                    const model::PublicTensor& tensor, std::span<float> values) {
  const auto name = expert_of(tensor.name);
  const std::int32_t source =
      layer.source[static_cast<std::size_t>(name->number - layer.old_numbers())];
  if (source == LayerChange::kFresh) {
    const std::vector<float> initial = model::initial_values(spec, tensor, change_->seed);
    std::copy(initial.begin(), initial.end(), values.begin());
    return;
  }
  const std::vector<float> original =
      whole(name->before + std::to_string(source) + name->after, tensor.shape);
  const Noise noise(change_->seed, tensor.name, original);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::int64_t element = tensor.whole_index(static_cast<std::int64_t>(i));
    values[i] = noise(original[static_cast<std::size_t>(element)], element);
  }
}

}  // namespace moesaic::checkpoint
