#include "model/layers/embedding.h"

#include "backend/transfer.h"
#include "model/device_batch.h"
#include "model/tensor_parallel.h"

namespace moesaic::model {
namespace {

constexpr double kEmbeddingStd = 0.02;

}  // namespace

Parameter& add_table(Parameters& parameters, const config::Model& model, const Placement& placement,
                     const std::string& name, bool in_products) {
  const Slice own = placement.of(model.vocab_size);
  PublicTensor table = split_tensor(name, {model.vocab_size, model.d_model}, 0, own);
  if (model.tie_embeddings && placement.stages > 1) {
    table.copies = 2;
    table.copy = placement.is_first() ? 0 : 1;
  }
  return parameters.add({.shape = {own.count, model.d_model},
                         .tensors = {table},
                         .init_std = kEmbeddingStd,
                         .in_products = in_products,
                         .looked_up = name == kEmbeddingName,
                         .tied = table.copies > 1});
}

Embedding::Embedding(Parameters& parameters, const config::Model& model, const Placement& placement)
    : vocabulary_(placement.of(model.vocab_size)),
      table_(add_table(parameters, model, placement, kEmbeddingName,
                       model.tie_embeddings && placement.is_last())) {}

const Tensor& Embedding::local_tokens(Context& ctx) const {
  Tensor& token = ctx.batch.device.token;
  if (!token.defined()) {
    token = to_device(ctx.backend, local_ids(ctx.batch.host->token, vocabulary_),
                      {ctx.batch.host->size()});
  }
  return token;
}

Tensor Embedding::forward(Context& ctx) const {
  const Tensor term = ctx.empty(DType::kF32, {ctx.batch.host->size(), table_.columns()});
  ctx.backend.embedding(table_.value, local_tokens(ctx), term);
  return sum_rows(ctx, term);
}

void Embedding::backward(Context& ctx, const Tensor& dy) const {
  const Tensor all = all_rows(ctx, dy);
  if (table_.is_trained()) {
    ctx.backend.embedding_backward(all, local_tokens(ctx), table_.grad);
  }
}

}  // namespace moesaic::model
