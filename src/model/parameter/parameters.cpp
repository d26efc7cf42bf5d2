#include "model/parameter/parameters.h"

#include <omp.h>

#include <utility>

#include "backend/transfer.h"

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
  for (const PublicTensor& tensor : p.spec.tensors) {
    if (p.spec.state || !tuning_.roles.trains(tensor.name)) {
      continue;
    }
    const TrainedRows next{.rows = p.rows_with(tensor),
                           .first = p.trained_rows(),
                           .lr_scale = static_cast<float>(tuning_.roles.lr_scale(tensor.name)),
                           .decays = p.spec.decays && tensor.shape.rank() >= 2};
    TrainedRows* const last = p.trained.empty() ? nullptr : &p.trained.back();
    if (last != nullptr && last->rows.end() == next.rows.begin && last->lr_scale == next.lr_scale &&
        last->decays == next.decays) {
      last->rows.count += next.rows.count;
    } else if (next.rows.count > 0) {
      p.trained.push_back(next);
    }
  }
  return p;
}

const Constant& Parameters::add_constant(std::vector<float> values) {
  return constants_.emplace_back(Constant{.values = std::move(values), .tensor = {}});
}

void Parameters::place(const std::map<SumOver, Owner>& owners) {
  for (const SumOver sum : kAllSums) {
    std::int64_t values = 0, gradients = 0;
    for (Parameter& p : list_) {
      if (p.spec.sum == sum && p.is_trained()) {
        p.value_begin = values;
        p.begin = gradients;
        values += padded(p.spec.shape.numel());
        gradients += padded(p.trained_elements());
      }
    }
  }
  buckets_ = make_buckets(list_, owners);
}

Parameters::TrainedBytes& Parameters::TrainedBytes::operator+=(const TrainedBytes& other) {
  elements += other.elements;
  gradients += other.gradients;
  moments += other.moments;
  return *this;
}

Parameters::TrainedBytes Parameters::trained_bytes(SumOver sum, DType moments) const {
  TrainedBytes bytes;
  for (const Parameter& p : list_) {
    if (p.spec.sum == sum) {
      bytes.elements += p.trained_elements();
      bytes.gradients += 4 * padded(p.trained_elements());
      bytes.moments +=
          2 * static_cast<std::int64_t>(size_of(moments)) * padded(p.owned.count * p.columns());
    }
  }
  return bytes;
}

Parameters::TrainedBytes Parameters::trained_bytes(DType moments) const {
  TrainedBytes bytes;
  for (const SumOver sum : kAllSums) {
    bytes += trained_bytes(sum, moments);
  }
  return bytes;
}

namespace {

struct Blocks {
  Tensor values, gradients;
};

Blocks blocks_of(Backend& backend, SumOver sum, std::deque<Parameter>& parameters) {
  std::int64_t values = 0, gradients = 0;
  const auto each = [&](const auto& use) {
    for (Parameter& p : parameters) {
      if (p.spec.sum == sum && p.is_trained()) {
        use(p);
      }
    }
  };
  each([&](const Parameter& p) {
    values = p.value_begin + padded(p.spec.shape.numel());
    gradients = p.begin + padded(p.trained_elements());
  });
  Blocks blocks{backend.empty(DType::kF32, {values}), backend.empty(DType::kF32, {gradients})};
  backend.zero(blocks.values);
  backend.zero(blocks.gradients);
  each([&](Parameter& p) {
    const Shape& shape = p.spec.shape;
    p.value = blocks.values.rows(p.value_begin, shape.numel()).reshaped(shape);
    p.grad = blocks.gradients.rows(p.begin, p.trained_elements())
                 .reshaped(p.is_trained_whole() ? shape : Shape{p.trained_rows(), p.columns()});
  });
  return blocks;
}

}  // namespace

void Parameters::allocate(Backend& backend, const Formats& formats,
                          const std::map<SumOver, Owner>& owners) {
  pack_ = formats.pack;
  for (Constant& constant : constants_) {
    constant.tensor = to_device(backend, constant.values, {std::ssize(constant.values)});
  }
  place(owners);
  std::map<SumOver, Blocks> blocks;
  for (const SumOver sum : kAllSums) {
    blocks[sum] = blocks_of(backend, sum, list_);
  }
  for (Bucket& bucket : buckets_) {
    const Blocks& all = blocks[bucket.sum];
    bucket.value = all.values.rows(bucket.values.begin, bucket.values.count);
    bucket.grad = all.gradients.rows(bucket.gradients.begin, bucket.gradients.count);
  }
  for (Parameter& p : list_) {
    const Kept of_it = kept(p.spec, formats.compute, p.is_trained(), pack_);
    if (of_it.packed && *pack_ != DType::kBf16) {
      p.hold_aligned_blocks();
    }
    if (of_it.values && !p.is_trained()) {
      p.value = backend.empty(DType::kF32, p.spec.shape);
    }
    if (of_it.packed) {
      continue;  // made when its values are set
    }
    p.compute = of_it.copy ? backend.empty(formats.compute, p.spec.shape) : p.value;
    const auto of_owned = [&](DType type) {
      Tensor tensor = backend.empty(type, {p.owned.count, p.columns()});
      backend.zero(tensor);
      return tensor;
    };
    if (p.is_trained()) {
      p.exp_avg = of_owned(formats.moments);
      p.exp_avg_sq = of_owned(formats.moments);
      p.deferred = p.spec.buffered ? of_owned(DType::kF32) : Tensor();
    }
  }
}

bool Parameters::packs(const Parameter& parameter) const {
  return kept(parameter.spec, DType::kF32, parameter.is_trained(), pack_).packed;
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
  const int threads = omp_get_max_threads();
  for (Parameter& p : list_) {
    std::vector<float> values(static_cast<std::size_t>(p.spec.shape.numel()));
    for (const PublicTensor& tensor : p.spec.tensors) {
      const auto begin = static_cast<std::size_t>(tensor.begin);
      const auto count = static_cast<std::size_t>(tensor.slice_shape().numel());
      make_initial_values(p.spec, tensor, seed, std::span(values).subspan(begin, count), threads);
    }
    set(backend, p, values);
  }
}

void Parameters::refresh_copies(Backend& backend) {
  for (const Parameter& p : list_) {
    if (p.value.defined() && p.compute.dtype() != DType::kF32) {
      backend.convert(p.value, p.compute);
    }
  }
}

}  // namespace moesaic::model
