#include "model/parameters.h"

#include <fmt/format.h>

#include <algorithm>
#include <span>

#include "backend/packed_rows.h"
#include "data/micro_batch.h"
#include "tensor/rng.h"

namespace moesaic::model {
namespace {

// Parameters begin at multiples of 64 bytes.
std::int64_t padded(std::int64_t elements) { return (elements + 15) / 16 * 16; }

Shape with_dim(const Shape& shape, int dim, std::int64_t extent) {
  Shape changed = shape;
  changed.set(dim, extent);
  return changed;
}

void place_tensors(ParameterSpec& spec) {
  std::int64_t total = 0;
  for (PublicTensor& tensor : spec.tensors) {
    tensor.begin = total;
    total += tensor.slice_shape().numel();
  }
  require(total == spec.shape.numel(), "public tensors do not fill " + spec.tensors.front().name);
}

}  // namespace

Shape PublicTensor::slice_shape() const { return with_dim(shape, dim, slice.count); }

std::vector<std::int64_t> PublicTensor::offset() const {
  std::vector<std::int64_t> offset(static_cast<std::size_t>(shape.rank()), 0);
  offset[static_cast<std::size_t>(dim)] = slice.begin;
  return offset;
}

std::vector<std::int64_t> PublicTensor::extent() const {
  const Shape own = slice_shape();
  std::vector<std::int64_t> extent(static_cast<std::size_t>(own.rank()));
  for (int i = 0; i < own.rank(); ++i) {
    extent[static_cast<std::size_t>(i)] = own[i];
  }
  return extent;
}

std::int64_t PublicTensor::whole_index(std::int64_t i) const {
  std::int64_t inner = 1;  // elements of one index of the split dim
  for (int d = dim + 1; d < shape.rank(); ++d) {
    inner *= shape[d];
  }
  const std::int64_t outer = i / (slice.count * inner);
  const std::int64_t within = i % (slice.count * inner);
  return outer * shape[dim] * inner + slice.begin * inner + within;
}

PublicTensor whole_tensor(const std::string& name, const Shape& shape) {
  return split_tensor(name, shape, 0, {0, shape[0]});
}

PublicTensor split_tensor(const std::string& name, const Shape& shape, int dim, Slice slice) {
  return {.name = name, .shape = shape, .dim = dim, .slice = slice};
}

PublicTensor copied_tensor(const std::string& name, const Shape& shape,
                           const Placement& placement) {
  PublicTensor tensor = whole_tensor(name, shape);
  tensor.copies = placement.tp;
  tensor.copy = placement.tp_rank;
  return tensor;
}

std::vector<float> initial_values(const ParameterSpec& spec, const PublicTensor& tensor,
                                  std::int64_t seed) {
  std::vector<float> values(static_cast<std::size_t>(tensor.slice_shape().numel()),
                            static_cast<float>(spec.init_value));
  if (spec.init_std > 0.0) {
    const Rng rng(static_cast<std::uint64_t>(seed), hash_name(tensor.name));
    for (std::size_t i = 0; i < values.size(); ++i) {
      const std::int64_t index = tensor.whole_index(static_cast<std::int64_t>(i));
      values[i] = static_cast<float>(spec.init_std * rng.normal(static_cast<std::uint64_t>(index)));
    }
  }
  return values;
}

Parameter& Parameters::add(ParameterSpec spec) {
  place_tensors(spec);
  Parameter& p = list_.emplace_back();
  p.spec = std::move(spec);
  p.part = part_;
  return p;
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
  place_tensors(spec);
}

std::map<SumOver, Tensor> Parameters::carve(Backend& backend, Tensor Parameter::*member) {
  std::map<SumOver, Tensor> blocks;
  for (const SumOver sum : kAllSums) {
    std::int64_t total = 0;
    for (Parameter& p : list_) {
      if (p.spec.sum == sum) {
        p.begin = total;
        total += padded(p.spec.shape.numel());
      }
    }
    blocks[sum] = backend.empty(DType::kF32, {total});
    backend.zero(blocks[sum]);
    for (Parameter& p : list_) {
      if (p.spec.sum == sum) {
        p.*member = blocks[sum].rows(p.begin, p.spec.shape.numel()).reshaped(p.spec.shape);
      }
    }
  }
  return blocks;
}

// Shares as equal as rows allow: their borders lie between rows, so that a checkpoint can hold them
// as blocks of their tensors.
void Parameters::share_out(Bucket& bucket, std::span<Parameter* const> members, Owner owner) {
  const std::int64_t first = members.front()->begin;
  const std::int64_t size = bucket.grad.numel();
  const auto border = [&](std::int64_t i) {
    const std::int64_t target = first + size * i / owner.ranks;
    for (const Parameter* p : members) {
      if (target < p->begin + p->spec.shape.numel()) {
        const std::int64_t inside = std::max<std::int64_t>(0, target - p->begin);
        return p->begin + inside / p->columns() * p->columns();
      }
    }
    return first + size;
  };
  for (int r = 0; r < owner.ranks; ++r) {
    bucket.counts.push_back(border(r + 1) - border(r));
  }
  const std::int64_t own_begin = border(owner.rank);
  const std::int64_t own_end = border(owner.rank + 1);
  for (Parameter* p : members) {
    const auto row_at = [&](std::int64_t element) {
      return std::clamp<std::int64_t>(element - p->begin, 0, p->spec.shape.numel()) / p->columns();
    };
    p->owners = owner.ranks;
    p->owned = {row_at(own_begin), row_at(own_end) - row_at(own_begin)};
  }
}

void Parameters::fill_buckets(const std::map<SumOver, Tensor>& values,
                              const std::map<SumOver, Tensor>& gradients,
                              const std::map<SumOver, Owner>& owners) {
  constexpr std::int64_t kElements = std::int64_t{1} << 22U;  // worth a call
  constexpr std::int64_t kMost = std::int64_t{1} << 26U;      // and then one for each parameter
  for (const SumOver sum : kAllSums) {
    std::vector<Parameter*> members;
    const Owner owner = owners.contains(sum) ? owners.at(sum) : Owner{};
    const auto close = [&] {
      if (members.empty()) {
        return;
      }
      const std::int64_t begin = members.front()->begin;
      const std::int64_t size =
          members.back()->begin + padded(members.back()->spec.shape.numel()) - begin;
      Bucket bucket{.sum = sum,
                    .first_part = members.front()->part,
                    .last_part = members.back()->part,
                    .value = values.at(sum).rows(begin, size),
                    .grad = gradients.at(sum).rows(begin, size),
                    .counts = {}};
      share_out(bucket, members, owner);
      buckets_.push_back(bucket);
      members.clear();
    };
    for (Parameter& p : list_) {
      if (p.spec.sum != sum) {
        continue;
      }
      const std::int64_t size = members.empty() ? 0 : p.begin - members.front()->begin;
      if ((size >= kElements && p.part != members.back()->part) || size >= kMost || p.spec.tied) {
        close();
      }
      members.push_back(&p);
      if (p.spec.tied) {  // alone, so that both ends of a pipeline sum it in the same order
        close();
      }
    }
    close();
  }
}

void Parameters::allocate(Backend& backend, DType compute, bool training,
                          const std::map<SumOver, Owner>& owners,
                          std::optional<PackedFormat> pack) {
  pack_ = training ? std::nullopt : pack;
  if (training) {
    const auto values = carve(backend, &Parameter::value);
    fill_buckets(values, carve(backend, &Parameter::grad), owners);
  }
  for (Parameter& p : list_) {
    if (packs(p) && *pack_ != PackedFormat::kBf16) {
      p.hold_aligned_blocks();
    }
    const bool copied = p.spec.in_products && compute != DType::kF32;
    if (!training && ((!copied && !packs(p)) || p.spec.looked_up)) {
      p.value = backend.empty(DType::kF32, p.spec.shape);
    }
    if (packs(p)) {
      continue;  // made when its values are set
    }
    p.compute = copied ? backend.empty(compute, p.spec.shape) : p.value;
    if (training) {
      std::vector<Tensor*> of_owned = {&p.exp_avg, &p.exp_avg_sq};
      if (p.spec.buffered) {
        of_owned.push_back(&p.deferred);
      }
      for (Tensor* tensor : of_owned) {
        *tensor = backend.empty(DType::kF32, {p.owned.count, p.columns()});
        backend.zero(*tensor);
      }
    }
  }
}

bool Parameters::packs(const Parameter& parameter) const {
  return pack_ && parameter.spec.in_products && parameter.spec.packable;
}

bool Parameters::packs_as(const Parameter& parameter, QuantizedType type) const {
  return packs(parameter) && *pack_ == format_of(type);
}

void Parameters::set_codes(Backend& backend, Parameter& parameter,
                           std::span<const QuantizedRows> rows) const {
  const Shape& shape = parameter.spec.shape;
  const bool grouped = shape.rank() == 3;
  PackedWeights& packed = parameter.packed;
  packed = {.format = *pack_,
            .groups = grouped ? shape[0] : 1,
            .rows = shape[grouped ? 1 : 0],
            .columns = parameter.columns(),
            .slice = {},
            .words = {}};
  packed.slice = parameter.own_columns.value_or(ColumnSlice{0, packed.columns, packed.columns});
  const std::int64_t bytes =
      packed_parts(packed.rows, kPackedRows) * packed_panel_bytes(*pack_, packed.columns);
  packed.words = backend.empty(DType::kI32, {packed.groups, bytes / 4});
  std::vector<std::byte> panels(packed.words.bytes());
  clear_panels(rows.front().type, packed.columns, panels);
  std::int64_t row = 0;  // of all groups
  for (const QuantizedRows& part : rows) {
    if (part.rows > 0) {
      const auto group = std::span(panels).subspan(
          static_cast<std::size_t>(row / packed.rows * bytes), static_cast<std::size_t>(bytes));
      put_into_panels(part, row % packed.rows, group);
    }
    row += part.rows;
  }
  require(row == packed.groups * packed.rows, "codes do not fill their parameter");
  backend.upload(panels, packed.words);
}

void Parameters::set(Backend& backend, Parameter& parameter,
                     const std::vector<float>& values) const {
  const Tensor wide = parameter.value.defined() ? parameter.value
                                                : backend.empty(DType::kF32, parameter.spec.shape);
  backend.upload(std::as_bytes(std::span(values)), wide);
  if (packs(parameter)) {
    const Shape& shape = parameter.spec.shape;
    const Tensor groups = shape.rank() == 3 ? wide : wide.reshaped({1, shape[0], shape[1]});
    parameter.packed = backend.pack(*pack_, groups, {});
    parameter.packed.slice = parameter.own_columns.value_or(parameter.packed.slice);
  } else if (parameter.compute.dtype() != DType::kF32) {
    backend.convert(wide, parameter.compute);
  }
}

void Parameters::initialise(Backend& backend, std::int64_t seed) {
  for (Parameter& p : list_) {
    std::vector<float> values;
    for (const PublicTensor& tensor : p.spec.tensors) {
      const std::vector<float> part = initial_values(p.spec, tensor, seed);
      values.insert(values.end(), part.begin(), part.end());
    }
    set(backend, p, values);
  }
}

void Parameters::refresh_copies(Backend& backend) {
  for (const Parameter& p : list_) {
    if (p.compute.dtype() != DType::kF32) {
      backend.convert(p.value, p.compute);
    }
  }
}

}  // namespace moesaic::model
