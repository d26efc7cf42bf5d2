#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "model/parameter/adapter_rules.h"
#include "model/parameter/buckets.h"
#include "model/parameter/roles.h"
#include "tensor/quantized.h"

namespace moesaic::model {

/// How a model is trained: which parameters, and what is added to them.
struct Tuning {
  Roles roles = {};
  AdapterRules adapters = {};

  /// Nothing is trained.
  static Tuning none() { return {Roles::none(), {}}; }
};

/// Numbers that kernels read and nothing changes.
struct Constant {
  std::vector<float> values;
  Tensor tensor;  // the same on the device
};

/// Every value, gradient, moment, public name and sharding: one list for optimizer, checkpoint and
/// layout changes. Layers add their parameters, then allocate() gives all of them memory: one
/// block for each kind and sum of what is trained, so that gradients are reduced in one go.
class Parameters {
 public:
  explicit Parameters(Tuning tuning = {}) : tuning_(std::move(tuning)) {}
  Parameters(const Parameters&) = delete;
  Parameters& operator=(const Parameters&) = delete;

  /// The reference stays valid.
  Parameter& add(ParameterSpec spec);
  /// Its tensor is there when memory is; the reference stays valid.
  const Constant& add_constant(std::vector<float> values);
  /// What is added from now on belongs to the next part of the model.
  void begin_part() { ++part_; }
  int part() const { return part_; }
  const Roles& roles() const { return tuning_.roles; }
  const AdapterRules& adapters() const { return tuning_.adapters; }
  struct Formats {
    DType compute = DType::kF32;
    DType moments = DType::kF32;     // fp32 or bf16
    std::optional<DType> pack = {};  // of frozen weights of products; without: compute
  };
  /// owners: who updates what (ZeRO stage 1, Rajbhandari et al. 2020); a sum that is not there:
  /// all.
  void allocate(Backend& backend, const Formats& formats,
                const std::map<SumOver, Owner>& owners = {});
  /// What allocate does first, without memory: where values and gradients lie, and what this rank
  /// owns.
  void place(const std::map<SumOver, Owner>& owners);
  /// What training takes on this rank (or would, after place). Gradients: 4 bytes for an element;
  /// moments: two numbers for each owned one. Every tensor is rounded up to 16 elements.
  struct TrainedBytes {
    std::int64_t elements = 0, gradients = 0, moments = 0;
    TrainedBytes& operator+=(const TrainedBytes& other);
  };
  TrainedBytes trained_bytes(DType moments) const;
  TrainedBytes trained_bytes(SumOver sum, DType moments) const;  // of one sum's parameters
  void initialise(Backend& backend, std::int64_t seed);
  /// Gives one of them its values, all of this rank's, and its copy with them.
  void set(Backend& backend, Parameter& parameter, const std::vector<float>& values) const;
  /// Whether its values are quantized.
  bool packs(const Parameter& parameter) const;
  /// Gives a quantized parameter these very codes, the rows of its tensors in turn.
  void set_codes(Backend& backend, Parameter& parameter, std::span<const QuantizedRows> rows) const;
  /// Whether its codes are of this type.
  bool packs_as(const Parameter& parameter, DType type) const;
  /// Brings the copies in the compute dtype up to date after an update of the values.
  void refresh_copies(Backend& backend);

  std::deque<Parameter>& all() { return list_; }
  const std::deque<Parameter>& all() const { return list_; }
  /// All gradients, in few large pieces.
  const std::vector<Bucket>& buckets() const { return buckets_; }

 private:
  Tuning tuning_;
  std::optional<DType> pack_;
  std::deque<Parameter> list_;
  std::deque<Constant> constants_;
  std::vector<Bucket> buckets_;
  int part_ = 0;
};

}  // namespace moesaic::model
