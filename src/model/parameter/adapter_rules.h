#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "config/config.h"

namespace moesaic::model {

/// Which products have adapters, y = W x + scale B A x (Hu et al. 2022), and of which kind.
class AdapterRules {
 public:
  /// There are none.
  AdapterRules() = default;
  explicit AdapterRules(const config::Adapter& adapter);

  std::int64_t rank() const { return rank_; }  // 0: there are none
  double scale() const { return scale_; }
  std::int64_t seed() const { return seed_; }
  /// Whether the weight of this public name has one.
  bool has(std::string_view name) const;
  /// Whether one entry of adapter.targets means the weight of this public name.
  static bool means(const std::string& target, std::string_view name);

 private:
  std::int64_t rank_ = 0, seed_ = 0;
  double scale_ = 0.0;
  std::vector<std::string> targets_;
};

/// "x.q_proj.weight" -> "x.q_proj.lora_A.weight", (r, in), and "x.q_proj.lora_B.weight", (out, r):
/// PEFT's names.
std::string lora_a_name(std::string_view weight);
std::string lora_b_name(std::string_view weight);
/// The weight that one of these belongs to; empty: `name` is of no adapter.
std::string adapted_weight(std::string_view name);
/// Whether a tensor, or the moment of one, is part of an adapter.
bool is_of_adapter(std::string_view name);

/// adapter.alpha; 2 rank where that is 0.
double adapter_alpha(const config::Adapter& adapter);
/// alpha / rank, or alpha / sqrt(rank) (Kalajdzievski 2023).
double adapter_scale(const config::Adapter& adapter);

}  // namespace moesaic::model
