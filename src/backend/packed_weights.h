#pragma once

#include <cstdint>

#include "backend/packed_layout.h"
#include "tensor/tensor.h"

namespace moesaic {

const char* name_of(PackedFormat format);

/// Weights w (G, N, K) that are only read, as Backend::pack makes them: in few bits, in the order
/// in which products read them (packed_layout.h). A handle, as a Tensor is.
struct PackedWeights {
  PackedFormat format = PackedFormat::kBf16;
  std::int64_t groups = 0, rows = 0, columns = 0;
  Tensor words;  // (G, bytes of a group / 4) int32

  std::size_t bytes() const { return words.bytes(); }
};

}  // namespace moesaic
