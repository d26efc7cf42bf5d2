#include "model/parameters.h"

#include <fmt/format.h>

#include "model/micro_batch.h"
#include "tensor/rng.h"

namespace moesaic::model {
namespace {

// Parameters begin at multiples of 64 bytes.
std::int64_t padded(std::int64_t elements) { return (elements + 15) / 16 * 16; }

}  // namespace

Parameter& Parameters::add(ParameterSpec spec) {
  std::int64_t total = 0;
  for (const PublicTensor& tensor : spec.tensors) {
    require(tensor.begin == total, tensor.name + " does not follow its neighbour");
    total += tensor.shape.numel();
  }
  require(total == spec.shape.numel(), "public tensors do not fill " + spec.tensors.front().name);
  list_.push_back({.spec = std::move(spec),
                   .value = {},
                   .grad = {},
                   .compute = {},
                   .exp_avg = {},
                   .exp_avg_sq = {}});
  return list_.back();
}

void Parameters::carve(Backend& backend, Tensor Parameter::*member) {
  for (const Sharding sharding : {Sharding::kReplicated, Sharding::kExpert}) {
    std::int64_t total = 0;
    for (const Parameter& p : list_) {
      total += p.spec.sharding == sharding ? padded(p.spec.shape.numel()) : 0;
    }
    const Tensor block = backend.empty(DType::kF32, {total});
    backend.zero(block);
    std::int64_t begin = 0;
    for (Parameter& p : list_) {
      if (p.spec.sharding == sharding) {
        p.*member = block.rows(begin, p.spec.shape.numel()).reshaped(p.spec.shape);
        begin += padded(p.spec.shape.numel());
      }
    }
    if (member == &Parameter::grad) {
      (sharding == Sharding::kReplicated ? replicated_gradients_ : expert_gradients_) = block;
    }
  }
}

void Parameters::allocate(Backend& backend, DType compute, bool training) {
  carve(backend, &Parameter::value);
  if (training) {
    carve(backend, &Parameter::grad);
    carve(backend, &Parameter::exp_avg);
    carve(backend, &Parameter::exp_avg_sq);
  }
  for (Parameter& p : list_) {
    const bool copied = p.spec.in_products && compute != DType::kF32;
    p.compute = copied ? backend.empty(compute, p.spec.shape) : p.value;
  }
}

void Parameters::initialise(Backend& backend, std::int64_t seed) {
  for (Parameter& p : list_) {
    std::vector<float> values(static_cast<std::size_t>(p.spec.shape.numel()),
                              static_cast<float>(p.spec.init_value));
    if (p.spec.init_std > 0.0) {
      for (const PublicTensor& tensor : p.spec.tensors) {
        const Rng rng(static_cast<std::uint64_t>(seed), hash_name(tensor.name));
        for (std::int64_t i = 0; i < tensor.shape.numel(); ++i) {
          values[static_cast<std::size_t>(tensor.begin + i)] =
              static_cast<float>(p.spec.init_std * rng.normal(static_cast<std::uint64_t>(i)));
        }
      }
    }
    backend.upload(std::as_bytes(std::span(values)), p.value);
  }
  refresh_copies(backend);
}

void Parameters::refresh_copies(Backend& backend) {
  for (const Parameter& p : list_) {
    if (p.compute.dtype() != DType::kF32) {
      backend.convert(p.value, p.compute);
    }
  }
}

const Tensor& Parameters::gradients(Sharding sharding) const {
  return sharding == Sharding::kReplicated ? replicated_gradients_ : expert_gradients_;
}

}  // namespace moesaic::model
