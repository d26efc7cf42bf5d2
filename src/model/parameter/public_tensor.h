#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/share.h"
#include "model/placement.h"
#include "tensor/tensor.h"

namespace moesaic::model {

inline constexpr const char* kEmbeddingName = "model.embed_tokens.weight";
inline constexpr const char* kHeadName = "lm_head.weight";

/// The layer of a public name; -1: it is of none.
std::int64_t layer_of(std::string_view name);

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
  bool partial = false;    // the copies' gradients are still to be summed over Group::kKv
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

}  // namespace moesaic::model
