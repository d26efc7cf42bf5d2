#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "backend/packed_weights.h"
#include "model/parameter/public_tensor.h"

namespace moesaic::model {

/// The ranks over which a gradient is summed: those that hold the same parameters and saw other
/// tokens. Experts: dp x cp. The others: dp x cp x ep; with tp as well where each rank of tp sees
/// its share of the rows (the gate; norms when the sequence is split).
enum class SumOver { kReplicas, kStage, kExpertReplicas };
inline constexpr std::array kAllSums = {SumOver::kReplicas, SumOver::kStage,
                                        SumOver::kExpertReplicas};

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

  /// Whether a checkpoint may hold its tensors as int8 or int4: products alone read them.
  bool quantizable() const { return in_products && packable && !looked_up; }

  /// Says of each tensor where it lies; throws kInternal unless they fill the parameter.
  void place_tensors();
};

/// What there is of a parameter: its fp32 values, a copy in the compute dtype, packed weights.
struct Kept {
  bool values = false, copy = false, packed = false;
};
/// pack: how weights of products are kept while nothing is trained; nothing: in compute.
Kept kept(const ParameterSpec& spec, DType compute, bool training, std::optional<DType> pack);

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
  /// Elements up to the next parameter: each begins at a multiple of 64 bytes.
  std::int64_t padded_size() const { return (spec.shape.numel() + 15) / 16 * 16; }
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

}  // namespace moesaic::model
