#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config/config.h"

namespace moesaic::config {

/// One change of the experts, the same in every MoE layer.
struct PoolRequest {
  PoolAction action = PoolAction::kAdd;
  std::int64_t count = 1;
  std::vector<std::int32_t> experts;  // by number; empty: those that their load names
};

/// The action and the keys experts.* of a command line or a line of run.control. Throws kUsage.
PoolRequest pool_request(const std::string& action, const ExpertsJob& keys);
std::string text_of(const PoolRequest& request);  // as it stands in run.control

/// The lines of run.control: ACTION [--experts.key VALUE]..., in their order. Empty lines and those
/// that begin with # count for nothing. Throws kUsage, naming the file.
std::vector<PoolRequest> read_requests(const std::string& text, const std::string& file);

}  // namespace moesaic::config
