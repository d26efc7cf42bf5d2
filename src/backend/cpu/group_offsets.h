#pragma once

#include <cstdint>
#include <vector>

#include "tensor/tensor.h"

namespace moesaic::cpu {

/// The offsets of G groups among R rows, undefined: of one group that has them all. [G + 1] Throws
/// kInternal where they are not in order.
std::vector<std::int64_t> group_offsets(const Tensor& offsets, std::int64_t groups,
                                        std::int64_t rows);

}  // namespace moesaic::cpu
