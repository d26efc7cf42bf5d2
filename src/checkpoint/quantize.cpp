#include "checkpoint/quantize.h"

#include "model/transformer.h"

namespace moesaic::checkpoint {

std::map<std::string, StoredKind> stored_kinds(const config::Model& model,
                                               const config::Router& router,
                                               const routing::GateState& gates) {
  model::Parameters parameters;  // of one rank, which get no memory
  const model::Transformer transformer(parameters, model, router, model::Placement{}, gates);
  std::map<std::string, StoredKind> kinds;
  for (const model::Parameter& p : parameters.all()) {
    for (const model::PublicTensor& tensor : p.spec.tensors) {
      kinds[tensor.name] = {.packable = p.spec.quantizable() && tensor.shape.rank() == 2,
                            .state = p.spec.state};
    }
  }
  return kinds;
}

QuantizedRows quantize(Backend& backend, DType type, std::span<const float> w, std::int64_t rows,
                       std::int64_t columns, std::span<const float> mean_squares) {
  const Tensor wide = backend.empty(DType::kF32, {1, rows, columns});
  backend.upload(std::as_bytes(w), wide);
  Tensor weights;
  if (!mean_squares.empty()) {
    weights = backend.empty(DType::kF32, {columns});
    backend.upload(std::as_bytes(mean_squares), weights);
  }
  return backend.codes_of(backend.pack(type, wide, weights));
}

}  // namespace moesaic::checkpoint
