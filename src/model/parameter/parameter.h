#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "backend/packed_weights.h"
#include "model/parameter/public_tensor.h"

namespace moesaic::model {

/// The ranks over which a gradient is summed: those that hold the same parameters and saw other
/// tokens. Experts: dp x cp. The others: dp x cp x ep. The two with "stage": with tp as well, where
/// its ranks all hold the parameter and each has a part of the gradient: it sees its share of the
/// rows (the gate; norms when the sequence is split), or of the products around it (one half of an
/// adapter).
enum class SumOver { kReplicas, kStage, kExpertReplicas, kExpertStage };
inline constexpr std::array kAllSums = {SumOver::kReplicas, SumOver::kStage,
                                        SumOver::kExpertReplicas, SumOver::kExpertStage};
constexpr bool is_over_tp(SumOver sum) {
  return sum == SumOver::kStage || sum == SumOver::kExpertStage;
}
constexpr bool is_of_experts(SumOver sum) {
  return sum == SumOver::kExpertReplicas || sum == SumOver::kExpertStage;
}

struct ParameterSpec {
  Shape shape;
  std::vector<PublicTensor> tensors;  // they fill the parameter in this order
  double init_std = 0.0;              // normal; 0: every element is init_value
  double init_value = 0.0;
  double init_bound = 0.0;                // or uniform in (-bound, bound)
  std::optional<std::int64_t> seed = {};  // of its initial values; none: that of the model
  SumOver sum = SumOver::kReplicas;
  bool in_products = true;  // read by matrix products, in the compute dtype
  bool looked_up = false;   // and read by others as well, in fp32: a tied table
  bool packable = true;     // products with its rows alone read it: it may be quantized
  bool state = false;       // counts change it, never a gradient: loads and biases of the router
  bool adaptable = false;   // an adapter may be added to its product
  bool decays = true;       // weight decay applies to its tensors of two or more dims
  bool buffered = false;    // its gradient may be deferred over steps (router.gradient_buffer)
  bool tied = false;        // held by the first and the last stage of a pipeline

  /// Whether a checkpoint may hold its tensors as int8 or int4: products alone read them.
  bool quantizable() const { return in_products && packable && !looked_up; }

  /// Says of each tensor where it lies; throws kInternal unless they fill the parameter.
  void place_tensors();
};

/// What there is of a parameter: its fp32 values, a copy in the compute dtype, packed weights.
struct Kept {
  bool values = false, copy = false, packed = false;
};
/// trained: it has an fp32 value. pack: how other weights of products are kept; nothing: in
/// compute.
Kept kept(const ParameterSpec& spec, DType compute, bool trained, std::optional<DType> pack);

/// This rank's slice of a tensor of the spec, as a new model begins: each element a function of
/// (seed, public name, element index) alone, whatever the number of threads that make them.
std::vector<float> initial_values(const ParameterSpec& spec, const PublicTensor& tensor,
                                  std::int64_t seed);
void make_initial_values(const ParameterSpec& spec, const PublicTensor& tensor, std::int64_t seed,
                         std::span<float> values, int threads);

/// Neighbouring rows of a parameter that training changes by one rule.
struct TrainedRows {
  Slice rows;              // of the parameter
  std::int64_t first = 0;  // which of the trained rows the first of them is
  float lr_scale = 1.0F;
  bool decays = false;

  Slice among_trained() const { return {first, rows.count}; }
  /// Some of its trained rows, as rows of the parameter.
  Slice of_parameter(Slice trained) const {
    return {rows.begin + trained.begin - first, trained.count};
  }
};

/// Gradients and moments have the trained rows alone, one after the other: "row i of the trained
/// rows". Most parameters are trained as a whole, or not at all.
struct Parameter {
  ParameterSpec spec;
  int part = 0;  // of the model, in its order: embedding, each block, norm and head
  std::vector<TrainedRows> trained;  // empty: it is frozen, or state
  // Where it lies among those of the same sum, elements: its value and its gradient.
  std::int64_t value_begin = 0, begin = 0;
  Tensor value;          // fp32; none where it is frozen and products alone read it
  Tensor grad;           // fp32, of the trained rows: of the parameter's shape if these are all
  Tensor compute;        // value itself, or its copy in the compute dtype
  PackedWeights packed;  // instead of these, where weights are quantized
  std::optional<ColumnSlice> own_columns;  // of those kept, where ranks share out whole rows
  Slice owned;                             // of the trained rows: whose update this rank computes
  int owners = 1;              // ranks that share out the update; 1: each computes all of it
  Tensor exp_avg, exp_avg_sq;  // of the owned rows
  Tensor deferred;  // fp32, of the owned rows, if buffered: the sum of deferred gradients

  /// As a matrix: the last dim is a row; of a vector each element is one.
  std::int64_t columns() const;
  Slice all_rows() const { return {0, spec.shape.numel() / columns()}; }
  /// Rows of its value, or of another tensor that has them all.
  Tensor rows_of(const Tensor& tensor, Slice rows) const;
  /// Where the columns of its tensors are shared out: from now on it has all blocks that its own
  /// are in (backend/packed_weights.h).
  void hold_aligned_blocks();
  /// The rows in which a tensor of the spec lies.
  Slice rows_with(const PublicTensor& tensor) const;

  bool is_trained() const { return !trained.empty(); }
  std::int64_t trained_rows() const;
  std::int64_t trained_elements() const { return trained_rows() * columns(); }
  bool is_trained_whole() const { return trained_rows() == all_rows().count; }
  /// Those of the trained rows that lie in these rows of the parameter.
  Slice trained_in(Slice rows) const;
  Slice trained_rows_with(const PublicTensor& tensor) const {
    return trained_in(rows_with(tensor));
  }
  /// These of the trained rows, of its gradient.
  Tensor grad_rows(Slice of_trained) const;
};

/// Elements up to the next tensor in a block: each begins at a multiple of 64 bytes.
constexpr std::int64_t padded(std::int64_t elements) { return (elements + 15) / 16 * 16; }

}  // namespace moesaic::model
