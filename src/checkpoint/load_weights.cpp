#include "checkpoint/load_weights.h"

#include <fmt/format.h>

#include <algorithm>

#include "backend/transfer.h"
#include "base/text.h"
#include "checkpoint/changed_checkpoint.h"
#include "checkpoint/manifest.h"
#include "tensor/rng.h"

namespace moesaic::checkpoint {
namespace {

std::vector<std::int64_t> extents(const Shape& shape) {
  std::vector<std::int64_t> list;
  list.reserve(static_cast<std::size_t>(shape.rank()));
  for (int i = 0; i < shape.rank(); ++i) {
    list.push_back(shape[i]);
  }
  return list;
}

// The stored kinds of a parameter's tensors: name prefix, which tensor of the parameter, and the
// rows that this rank has: of the parameter, or of its trained rows.
struct Kind {
  const char* prefix;
  Tensor model::Parameter::*member;
  Slice rows;

  bool is_value() const { return member == &model::Parameter::value; }
  // Where a tensor of the parameter lies among the rows of this kind.
  Slice rows_with(const model::Parameter& p, const model::PublicTensor& tensor) const {
    const Slice all = p.rows_with(tensor);
    return is_value() ? all : p.trained_in(all);
  }
};
std::vector<Kind> kinds(const model::Parameter& p, bool with_moments) {
  std::vector<Kind> list{{"", &model::Parameter::value, p.all_rows()}};
  if (with_moments && p.is_trained()) {
    list.push_back({"exp_avg/", &model::Parameter::exp_avg, p.owned});
    list.push_back({"exp_avg_sq/", &model::Parameter::exp_avg_sq, p.owned});
    if (p.spec.buffered) {
      list.push_back({"held/", &model::Parameter::deferred, p.owned});
    }
  }
  return list;
}

// A block of a public tensor, and the rows of the kind's tensor where it lies.
struct Region {
  const model::PublicTensor& tensor;
  Slice rows;
  std::vector<std::int64_t> offset, extent;
};
std::vector<Region> regions(const model::Parameter& p, const Kind& kind) {
  std::vector<Region> list;
  for (const model::PublicTensor& tensor : p.spec.tensors) {
    const Slice whole = kind.rows_with(p, tensor);
    const Slice part = overlap(whole, kind.rows);
    if (part.count == 0) {
      continue;
    }
    Region region{
        tensor, {part.begin - kind.rows.begin, part.count}, tensor.offset(), tensor.extent()};
    region.offset[0] += part.begin - whole.begin;
    region.extent[0] = part.count;
    list.push_back(std::move(region));
  }
  return list;
}

// Where several ranks hold the same slice of a tensor, one writes it; the hash of the name spreads
// this work. With ZeRO each rank writes its own share of the moments.
bool writes(const engine::Instance& instance, const model::Parameter& p, const Kind& kind,
            const model::PublicTensor& tensor) {
  const bool own = !kind.is_value() && p.owners > 1;
  if (own && model::is_over_tp(p.spec.sum)) {
    return true;
  }
  const comm::Communicator& holders =
      instance.mesh[model::is_of_experts(p.spec.sum) ? comm::Group::kDp : comm::Group::kReplicas];
  const int number = own ? tensor.copy : holders.rank() * tensor.copies + tensor.copy;
  const int writers = own ? tensor.copies : holders.size() * tensor.copies;
  return hash_name(tensor.name) % static_cast<std::uint64_t>(writers) ==
         static_cast<std::uint64_t>(number);
}

// Not in the checkpoint, and need not be.
bool is_new(const ModelSource& checkpoint, const model::PublicTensor& tensor) {
  return tensor.may_be_missing && !checkpoint.shape(tensor.name);
}

void check_shape(const ModelSource& checkpoint, const std::string& name, const Shape& wanted) {
  const auto stored = checkpoint.shape(name);
  if (!stored || *stored != extents(wanted)) {
    throw Error(
        Exit::kMismatch,
        fmt::format("{}: tensor {} {}; this model needs {}", checkpoint.path().string(), name,
                    stored ? fmt::format("has shape ({})", join(*stored, ", ")) : "is missing",
                    wanted.text()));
  }
}

// Whether this rank can have the very codes that are stored.
bool has_codes(const engine::Instance& instance, const ModelSource& checkpoint,
               const model::Parameter& p) {
  const auto has = [&](const model::PublicTensor& tensor) {
    const auto type =
        checkpoint.shape(tensor.name) ? checkpoint.quantized(tensor.name) : std::nullopt;
    return type && instance.parameters.packs_as(p, *type);
  };
  const std::vector<model::PublicTensor>& tensors = p.spec.tensors;
  return instance.parameters.packs(p) && !tensors.empty() &&
         std::all_of(tensors.begin(), tensors.end(), has);
}

void upload_f32(Backend& backend, std::span<const float> values, const Tensor& to) {
  const bool narrow = to.dtype() != DType::kF32;
  const Tensor wide = narrow ? backend.empty(DType::kF32, to.shape()) : to;
  backend.upload(std::as_bytes(values), wide);
  if (narrow) {
    backend.convert(wide, to);
  }
}

void load_codes(engine::Instance& instance, ModelSource& checkpoint, model::Parameter& p) {
  std::vector<QuantizedRows> rows;
  for (const model::PublicTensor& tensor : p.spec.tensors) {
    check_shape(checkpoint, tensor.name, tensor.shape);
    rows.push_back(checkpoint.read_quantized(tensor.name, tensor.offset(), tensor.extent()));
  }
  instance.parameters.set_codes(*instance.backend, p, rows);
}

}  // namespace

void load_parameters(engine::Instance& instance, ModelSource& checkpoint, Load what,
                     const std::function<void()>& on_progress, const PoolChange* change) {
  ChangedCheckpoint source(checkpoint, change);
  for (model::Parameter& p : instance.parameters.all()) {
    if (change == nullptr && has_codes(instance, checkpoint, p)) {
      load_codes(instance, checkpoint, p);
      if (on_progress) {
        on_progress();
      }
      continue;
    }
    for (const Kind& kind : kinds(p, what == Load::kAll)) {
      for (const model::PublicTensor& tensor : p.spec.tensors) {
        const auto stored = source.stored_shape(tensor);
        const bool wanted = kind.is_value() || kind.rows_with(p, tensor).count > 0;
        if (wanted && stored && !is_new(checkpoint, tensor)) {
          check_shape(checkpoint, kind.prefix + tensor.name, *stored);
        }
      }
      std::vector<float> values(static_cast<std::size_t>(kind.rows.count * p.columns()),
                                static_cast<float>(kind.is_value() ? p.spec.init_value : 0.0));
      for (const Region& region : regions(p, kind)) {
        if (is_new(checkpoint, region.tensor)) {
          if (kind.is_value()) {
            const std::vector<float> first = model::initial_values(p.spec, region.tensor, 0);
            std::copy(first.begin(), first.end(), values.begin() + region.rows.begin * p.columns());
          }
          continue;
        }
        source.read(
            kind.prefix, p.spec, region.tensor, region.offset, region.extent,
            std::span(values).subspan(static_cast<std::size_t>(region.rows.begin * p.columns()),
                                      static_cast<std::size_t>(region.rows.count * p.columns())));
      }
      if (kind.is_value()) {
        instance.parameters.set(*instance.backend, p, values);
      } else {
        upload_f32(*instance.backend, values, p.*kind.member);
      }
    }
    if (on_progress) {
      on_progress();
    }
  }
  instance.backend->release_reserve();  // of what values went through on their way to their types
}

namespace {

Tensor widened(Backend& backend, const Tensor& tensor) {
  if (tensor.dtype() == DType::kF32) {
    return tensor;
  }
  Tensor wide = backend.empty(DType::kF32, tensor.shape());
  backend.convert(tensor, wide);
  return wide;
}

// Whether training leaves a tensor as it was loaded.
bool is_frozen(const model::Parameter& p, const model::PublicTensor& tensor) {
  return !p.spec.state && p.trained_rows_with(tensor).count == 0;
}

// Sets type and values of a block of a frozen tensor. Not from the copy that products read: that
// may be rounded.
void copy_from_base(BlockToSave& block, const model::Parameter& p,
                    const model::PublicTensor& tensor, const FrozenTensors& frozen) {
  ModelSource* const base = frozen.base;
  if (base == nullptr) {
    require(frozen.seed.has_value(), "frozen tensors without a base");
    block.values = [&p, &tensor, seed = *frozen.seed] {
      return model::initial_values(p.spec, tensor, seed);
    };
    return;
  }
  block.type = base->exact_type(block.name);
  block.values = [base, name = block.name, offset = block.offset, extent = block.extent] {
    std::vector<float> values(static_cast<std::size_t>(volume(extent)));
    base->read(name, offset, extent, values);
    return values;
  };
}

}  // namespace

std::vector<BlockToSave> blocks_to_save(engine::Instance& instance, const FrozenTensors& frozen) {
  ModelSource* const base = frozen.base;
  std::vector<BlockToSave> blocks;
  for (const model::Parameter& p : instance.parameters.all()) {
    for (const Kind& kind : kinds(p, true)) {
      for (const Region& region : regions(p, kind)) {
        const bool is_base =
            is_frozen(p, region.tensor) && (base == nullptr || !is_new(*base, region.tensor));
        if (!writes(instance, p, kind, region.tensor) || (is_base && !frozen.saved)) {
          continue;
        }
        BlockToSave block{.name = kind.prefix + region.tensor.name,
                          .shape = extents(region.tensor.shape),
                          .offset = region.offset,
                          .extent = region.extent,
                          .values = {}};
        if (is_base) {
          copy_from_base(block, p, region.tensor, frozen);
        } else {
          const Tensor rows = (p.*kind.member).reshaped({kind.rows.count, p.columns()});
          const Tensor part = rows.rows(region.rows.begin, region.rows.count);
          block.type = part.dtype();
          block.values = [backend = instance.backend.get(), part] {
            return to_host_f32(*backend, widened(*backend, part));
          };
        }
        blocks.push_back(std::move(block));
      }
    }
  }
  return blocks;
}

}  // namespace moesaic::checkpoint
