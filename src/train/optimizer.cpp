#include "train/optimizer.h"

#include <cmath>

namespace moesaic::train {

double gradient_norm(Backend& backend, const model::Parameters& parameters,
                     const comm::Communicator& ep) {
  const double replicated =
      backend.sum_of_squares(parameters.gradients(model::Sharding::kReplicated));
  const double experts = ep.all_reduce(
      backend.sum_of_squares(parameters.gradients(model::Sharding::kExpert)), comm::Reduce::kSum);
  return std::sqrt(replicated + experts);
}

void optimizer_step(Backend& backend, model::Parameters& parameters, const config::Train& config,
                    double lr, std::int64_t step, double gradient_norm) {
  const bool clipped = config.clip > 0.0 && gradient_norm > config.clip;
  AdamW update{
      .lr = static_cast<float>(lr),
      .beta1 = static_cast<float>(config.beta1),
      .beta2 = static_cast<float>(config.beta2),
      .eps = static_cast<float>(config.eps),
      .weight_decay = 0.0F,
      .correction1 = static_cast<float>(1.0 - std::pow(config.beta1, static_cast<double>(step))),
      .correction2 = static_cast<float>(1.0 - std::pow(config.beta2, static_cast<double>(step))),
      .grad_scale = clipped ? static_cast<float>(config.clip / gradient_norm) : 1.0F};
  for (const model::Parameter& p : parameters.all()) {
    if (!p.spec.trained) {
      continue;
    }
    update.weight_decay = p.decays() ? static_cast<float>(config.weight_decay) : 0.0F;
    const bool copied = p.compute.dtype() != DType::kF32;
    backend.adamw(update, p.grad, p.value, p.exp_avg, p.exp_avg_sq, copied ? p.compute : Tensor());
  }
}

}  // namespace moesaic::train
