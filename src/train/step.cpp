#include "train/step.h"

namespace moesaic::train {

void zero_gradients(model::Instance& instance) {
  for (const auto sharding : {model::Sharding::kReplicated, model::Sharding::kExpert}) {
    instance.backend->zero(instance.parameters.gradients(sharding));
  }
}

std::vector<float> forward_backward(model::Instance& instance, model::Context& ctx,
                                    const model::MicroBatch& batch, double target_scale) {
  model::set_batch(ctx, batch);
  model::Transformer::Saved saved;
  const Tensor hidden = instance.transformer.forward(ctx, &saved);
  const Tensor dhidden = ctx.empty(DType::kF32, hidden.shape());
  std::vector<float> logprob;
  {
    const PhaseScope phase(ctx.clock, Phase::kForward);
    logprob =
        instance.transformer.head().loss(ctx, hidden, static_cast<float>(target_scale), dhidden);
  }
  instance.transformer.backward(ctx, dhidden, saved);
  return logprob;
}

void reduce_gradients(model::Instance& instance) {
  const PhaseScope phase(instance.clock, Phase::kGradReduce);
  instance.dp->all_reduce_sum(instance.parameters.gradients(model::Sharding::kExpert));
  instance.replicas->all_reduce_sum(instance.parameters.gradients(model::Sharding::kReplicated));
}

}  // namespace moesaic::train
