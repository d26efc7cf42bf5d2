#pragma once

#include <cstdint>
#include <vector>

namespace moesaic::routing {

/// What one MoE layer did with consecutive tokens of a step: T tokens, K choices of each.
struct RoutedRows {
  std::int64_t layer = 0;                    // among the MoE layers
  std::int64_t first = 0;                    // row in the step
  std::vector<std::int16_t> chosen, target;  // [T, K]; -1: none
  std::vector<float> weight;                 // [T, K]
  std::vector<std::uint8_t> fate;            // [T, K]: 0 kept, 1 next, 2 spare, 3 dropped
};

/// Which tokens they were.
struct TokenRows {
  std::int64_t first = 0;                        // row in the step
  std::vector<std::int64_t> document, position;  // document: global number in its corpus
  std::vector<std::int32_t> token;
  std::vector<std::uint16_t> corpus;
  std::vector<std::uint8_t> task;
};

}  // namespace moesaic::routing
