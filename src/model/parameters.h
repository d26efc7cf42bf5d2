#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "backend/backend.h"

namespace moesaic::model {

/// Which ranks hold a parameter: all of dp x ep the same one, or each ep rank its own experts.
enum class Sharding { kReplicated, kExpert };

/// A public tensor (Hugging Face name, unsharded shape) that lies at `begin` in a parameter.
struct PublicTensor {
  std::string name;
  Shape shape;
  std::int64_t begin = 0;
};

struct ParameterSpec {
  Shape shape;
  std::vector<PublicTensor> tensors;  // they fill the parameter in this order
  double init_std = 0.0;              // normal; 0: every element is init_value
  double init_value = 0.0;
  Sharding sharding = Sharding::kReplicated;
  bool in_products = true;  // read by matrix products: has a copy in the compute dtype
  bool trained = true;
};

struct Parameter {
  ParameterSpec spec;
  Tensor value, grad;          // fp32; grad: while training
  Tensor compute;              // value itself, or its copy in the compute dtype
  Tensor exp_avg, exp_avg_sq;  // fp32; while training

  /// Weight decay applies to tensors of two or more dims.
  bool decays() const { return spec.tensors.front().shape.rank() >= 2; }
};

/// Every value, gradient, moment, public name and sharding: one list for optimizer, checkpoint and
/// layout changes. Layers add their parameters, then allocate() gives all of them memory: one
/// block for each kind and sharding, so that gradients are reduced in one go.
class Parameters {
 public:
  Parameters() = default;
  Parameters(const Parameters&) = delete;
  Parameters& operator=(const Parameters&) = delete;

  /// The reference stays valid.
  Parameter& add(ParameterSpec spec);
  void allocate(Backend& backend, DType compute, bool training);
  /// Each element a function of (seed, public name, element index) alone.
  void initialise(Backend& backend, std::int64_t seed);
  /// Brings the copies in the compute dtype up to date after values changed.
  void refresh_copies(Backend& backend);

  std::deque<Parameter>& all() { return list_; }
  const std::deque<Parameter>& all() const { return list_; }
  /// All gradients of one sharding, (n) fp32.
  const Tensor& gradients(Sharding sharding) const;

 private:
  /// Gives this tensor of every parameter its place in one block for each sharding.
  void carve(Backend& backend, Tensor Parameter::*member);

  std::deque<Parameter> list_;
  Tensor replicated_gradients_, expert_gradients_;
};

}  // namespace moesaic::model
