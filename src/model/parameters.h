#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "model/placement.h"
#include "tensor/quantized.h"

namespace moesaic::model {

/// The ranks over which a gradient is summed: those that hold the same parameters and saw other
/// tokens. Experts: dp. The others: dp x ep; with tp as well where each rank of tp sees its share
/// of the rows (the gate; norms when the sequence is split).
enum class SumOver { kReplicas, kStage, kExpertReplicas };
inline constexpr std::array kAllSums = {SumOver::kReplicas, SumOver::kStage,
                                        SumOver::kExpertReplicas};

/// What the first dim of a tensor counts: the experts of a layer by number, or anything else. A new
/// expert's entry is made from those of the others, or begins anew with the initial value.
enum class TensorRows { kOther, kExperts, kExpertsAnew };

/// A public tensor (Hugging Face name, unsharded shape) and the slice of it that this rank holds.
struct PublicTensor {
  std::string name;
  Shape shape;
  int dim = 0;                  // the dim that is split
  Slice slice;                  // of that dim
  int copies = 1, copy = 0;     // ranks of tp x pp that hold this same slice; which one this is
  bool may_be_missing = false;  // from a checkpoint that is older than it: then the initial value
  TensorRows rows = TensorRows::kOther;
  bool partial = false;    // the copies' gradients are still to be summed over mesh.kv_replicas
  std::int64_t begin = 0;  // where it lies in the parameter; Parameters::add sets it

  Shape slice_shape() const;
  std::vector<std::int64_t> offset() const;  // of the slice in the unsharded tensor
  std::vector<std::int64_t> extent() const;
  /// The index in the unsharded tensor of element i of the slice.
  std::int64_t whole_index(std::int64_t i) const;
};

PublicTensor whole_tensor(const std::string& name, const Shape& shape);
/// A slice of one dim.
PublicTensor split_tensor(const std::string& name, const Shape& shape, int dim, Slice slice);
/// The same on all ranks of tp.
PublicTensor copied_tensor(const std::string& name, const Shape& shape, const Placement& placement);

struct ParameterSpec {
  Shape shape;
  std::vector<PublicTensor> tensors;  // they fill the parameter in this order
  double init_std = 0.0;              // normal; 0: every element is init_value
  double init_value = 0.0;
  SumOver sum = SumOver::kReplicas;
  bool in_products = true;  // read by matrix products, in the compute dtype
  bool looked_up = false;   // and read by others as well, in fp32: a tied table
  bool packable = true;     // products with its rows alone read it: it may be quantized
  bool trained = true;
  bool buffered = false;  // its gradient may be deferred over steps (router.gradient_buffer)
  bool tied = false;      // held by the first and the last stage of a pipeline
};

/// This rank's slice of a tensor of the spec, as a new model begins: each element a function of
/// (seed, public name, element index) alone.
std::vector<float> initial_values(const ParameterSpec& spec, const PublicTensor& tensor,
                                  std::int64_t seed);

struct Parameter {
  ParameterSpec spec;
  int part = 0;            // of the model, in its order: embedding, each block, norm and head
  std::int64_t begin = 0;  // where it lies among those of the same sum, elements
  Tensor value, grad;      // fp32; grad: while training; no value where products alone read it
  Tensor compute;          // value itself, or its copy in the compute dtype
  PackedWeights packed;    // instead of these, where weights are quantized
  std::optional<ColumnSlice> own_columns;  // of those kept, where ranks share out whole rows
  Slice owned;                             // the rows whose update this rank computes
  int owners = 1;              // ranks that share out the update; 1: each computes all of it
  Tensor exp_avg, exp_avg_sq;  // fp32, of the owned rows; while training
  Tensor deferred;  // fp32, of the owned rows, if buffered: the sum of deferred gradients

  /// As a matrix: the last dim is a row; of a vector each element is one.
  std::int64_t columns() const;
  Slice all_rows() const { return {0, spec.shape.numel() / columns()}; }
  Tensor rows_of(const Tensor& tensor, Slice rows) const;
  /// Where the columns of its tensors are shared out: from now on it has all blocks that its own
  /// are in (backend/packed_weights.h).
  void hold_aligned_blocks();
  /// The rows in which a tensor of the spec lies.
  Slice rows_with(const PublicTensor& tensor) const;

  /// Weight decay applies to tensors of two or more dims.
  bool decays() const { return spec.tensors.front().shape.rank() >= 2; }
};

/// Gradients that are summed in one call: neighbours of one sum.
struct Bucket {
  SumOver sum;
  int first_part = 0, last_part = 0;
  Tensor value, grad;                // (n) fp32
  std::vector<std::int64_t> counts;  // elements that each rank of the sum's group owns
};

/// A rank's number among those that share out the updates of the same parameters.
struct Owner {
  int rank = 0, ranks = 1;
};

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
                const std::map<SumOver, Owner>& owners = {}, std::optional<PackedFormat> pack = {});
  void initialise(Backend& backend, std::int64_t seed);
  /// Gives one of them its values, all of this rank's, and its copy with them.
  void set(Backend& backend, Parameter& parameter, const std::vector<float>& values) const;
  /// Whether its values are quantized.
  bool packs(const Parameter& parameter) const;
  /// Gives a quantized parameter these very codes, the rows of its tensors in turn.
  void set_codes(Backend& backend, Parameter& parameter, std::span<const QuantizedRows> rows) const;
  /// Whether its codes are of this type.
  bool packs_as(const Parameter& parameter, QuantizedType type) const;
  /// Brings the copies in the compute dtype up to date after an update of the values.
  void refresh_copies(Backend& backend);

  std::deque<Parameter>& all() { return list_; }
  const std::deque<Parameter>& all() const { return list_; }
  /// All gradients, in few large pieces.
  const std::vector<Bucket>& buckets() const { return buckets_; }

 private:
  /// Gives this tensor of every parameter its place in one block for each sum.
  std::map<SumOver, Tensor> carve(Backend& backend, Tensor Parameter::*member);
  void fill_buckets(const std::map<SumOver, Tensor>& values,
                    const std::map<SumOver, Tensor>& gradients,
                    const std::map<SumOver, Owner>& owners);
  void share_out(Bucket& bucket, std::span<Parameter* const> members, Owner owner);

  std::optional<PackedFormat> pack_;
  std::deque<Parameter> list_;
  std::vector<Bucket> buckets_;
  int part_ = 0;
};

}  // namespace moesaic::model
