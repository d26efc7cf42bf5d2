#pragma once

#include <cstdint>
#include <span>

#include "backend/cpu/instruction_set.h"
#include "backend/memory_pool.h"
#include "backend/packed_weights.h"

namespace moesaic::cpu {

/// See Backend::packed_matmul. The number of threads changes no bit. memory_pool: for the rows of x
/// as numbers of the weights' kind.
void packed_matmul(const InstructionSet& set, int threads, const Tensor& x,
                   std::span<const std::int64_t> offsets, const PackedWeights& w, const Tensor& y,
                   const Tensor& peaks, MemoryPool& memory_pool);

}  // namespace moesaic::cpu
