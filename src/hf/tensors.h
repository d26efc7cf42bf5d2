#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "hf/config.h"

// Which tensors a model has under our names, and where each lies in a family's folder. Our names
// are those of Qwen3-MoE and DeepSeek.
namespace moesaic::hf {

/// Elements of a stored tensor, row-major of `shape`: the one at (i, j, ...) of ours is element
/// first + i strides[0] + j strides[1] + ...
struct HfView {
  std::string tensor;
  std::vector<std::int64_t> shape;
  std::int64_t first = 0;
  std::vector<std::int64_t> strides;
};

struct HfTensor {
  std::string name;
  std::vector<std::int64_t> shape;  // unsharded
  HfView view;
  /// Whether it is a part of a stored tensor that holds those of all experts.
  bool stacked() const { return view.shape.size() > shape.size(); }
};

/// All tensors of a model, in its order. kBadData if sizes overflow.
std::vector<HfTensor> hf_tensors(const Family& family, config::Model model, config::Router router);

/// Whether files hold it as F32 whatever the format of the others.
bool is_always_f32(std::string_view name);

}  // namespace moesaic::hf
