#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "model/parameter/buckets.h"
#include "tensor/quantized.h"

namespace moesaic::model {

/// Every value, gradient, moment, public name and sharding: one list for optimizer, checkpoint and
/// layout changes. Layers add their parameters, then allocate() gives all of them memory: one
/// block for each kind and sum, so that gradients are reduced in one go.
class Parameters {
 public:
  Parameters() = default;
  Parameters(const Parameters&) = delete;
  Parameters& operator=(const Parameters&) = delete;

  /// The reference stays valid.
  Parameter& add(ParameterSpec spec);
  /// What is added from now on belongs to the next part of the model.
  void begin_part() { ++part_; }
  int part() const { return part_; }
  /// owners: who updates what (ZeRO stage 1, Rajbhandari et al. 2020); a sum that is not there:
  /// all. pack: how weights of products are kept while nothing is trained; without: in compute.
  void allocate(Backend& backend, DType compute, bool training,
                const std::map<SumOver, Owner>& owners = {}, std::optional<DType> pack = {});
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
  /// Gives this tensor of every parameter its place in one block for each sum.
  std::map<SumOver, Tensor> carve(Backend& backend, Tensor Parameter::*member);

  std::optional<DType> pack_;
  std::deque<Parameter> list_;
  std::vector<Bucket> buckets_;
  int part_ = 0;
};

}  // namespace moesaic::model
