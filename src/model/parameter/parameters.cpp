#include "model/parameter/parameters.h"

namespace moesaic::model {
namespace {

// A weight of products as (G, N, K): one of experts, or one group.
Shape groups_of(const Parameter& parameter) {
  const Shape& shape = parameter.spec.shape;
  return shape.rank() == 3 ? shape : Shape{1, shape[0], shape[1]};
}

}  // namespace

Parameter& Parameters::add(ParameterSpec spec) {
  spec.place_tensors();
  Parameter& p = list_.emplace_back();
  p.spec = std::move(spec);
  p.part = part_;
  return p;
}

std::map<SumOver, Tensor> Parameters::carve(Backend& backend, Tensor Parameter::*member) {
  std::map<SumOver, Tensor> blocks;
  for (const SumOver sum : kAllSums) {
    std::int64_t total = 0;
    for (Parameter& p : list_) {
      if (p.spec.sum == sum) {
        p.begin = total;
        total += p.padded_size();
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

void Parameters::allocate(Backend& backend, DType compute, bool training,
                          const std::map<SumOver, Owner>& owners, std::optional<DType> pack) {
  pack_ = training ? std::nullopt : pack;
  if (training) {
    const auto values = carve(backend, &Parameter::value);
    buckets_ = make_buckets(list_, values, carve(backend, &Parameter::grad), owners);
  }
  for (Parameter& p : list_) {
    const Kept of_it = kept(p.spec, compute, training, pack);
    if (of_it.packed && *pack != DType::kBf16) {
      p.hold_aligned_blocks();
    }
    if (of_it.values && !training) {
      p.value = backend.empty(DType::kF32, p.spec.shape);
    }
    if (of_it.packed) {
      continue;  // made when its values are set
    }
    p.compute = of_it.copy ? backend.empty(compute, p.spec.shape) : p.value;
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
  return kept(parameter.spec, DType::kF32, false, pack_).packed;
}

bool Parameters::packs_as(const Parameter& parameter, DType type) const {
  return packs(parameter) && *pack_ == type;
}

void Parameters::set_codes(Backend& backend, Parameter& parameter,
                           std::span<const QuantizedRows> rows) const {
  parameter.packed = backend.load_codes(groups_of(parameter), rows);
  parameter.packed.slice = parameter.own_columns.value_or(parameter.packed.slice);
}

void Parameters::set(Backend& backend, Parameter& parameter,
                     const std::vector<float>& values) const {
  const Tensor wide = parameter.value.defined() ? parameter.value
                                                : backend.empty(DType::kF32, parameter.spec.shape);
  backend.upload(std::as_bytes(std::span(values)), wide);
  if (packs(parameter)) {
    parameter.packed = backend.pack(*pack_, wide.reshaped(groups_of(parameter)), {});
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
