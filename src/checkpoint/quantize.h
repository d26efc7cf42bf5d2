#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "config/config.h"
#include "routing/gate_state.h"
#include "tensor/quantized.h"

namespace moesaic::checkpoint {

/// How a public tensor may be stored.
struct StoredKind {
  bool packable = false;  // a matrix that products alone read: as int8 or int4
  bool state = false;     // counts and biases of the router, which stay fp32
};
/// How each public tensor of a model may be stored, by name.
std::map<std::string, StoredKind> stored_kinds(const config::Model& model,
                                               const config::Router& router,
                                               const routing::GateState& gates);

/// w (rows, columns) quantized as run.quantize does it. mean_squares (columns): of the activations,
/// for int4; empty: all the same. kBadData if a number is not finite.
QuantizedRows quantize(Backend& backend, DType type, std::span<const float> w, std::int64_t rows,
                       std::int64_t columns, std::span<const float> mean_squares);

}  // namespace moesaic::checkpoint
