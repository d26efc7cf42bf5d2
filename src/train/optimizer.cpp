#include "train/optimizer.h"

#include <cmath>

namespace moesaic::train {
namespace {

// On how many ranks of the world the same element's sum lies.
int holders(model::Instance& instance, const model::Parameter& p,
            const model::PublicTensor& tensor) {
  const int group = instance.group_of(p.spec.sum).group().size() / p.owners;
  return p.spec.sum == model::SumOver::kStage ? group : group * tensor.copies;
}

double squares(model::Instance& instance, const model::Parameter& p) {
  double sum = 0.0;
  for (const model::PublicTensor& tensor : p.spec.tensors) {
    const Slice rows = overlap(p.rows_with(tensor), p.owned);
    if (rows.count > 0) {
      sum +=
          instance.backend->sum_of_squares(p.rows_of(p.grad, rows)) / holders(instance, p, tensor);
    }
  }
  return sum;
}

}  // namespace

double gradient_norm(model::Instance& instance) {
  double sum = 0.0;
  for (const model::Parameter& p : instance.parameters.all()) {
    sum += squares(instance, p);
  }
  return std::sqrt(instance.mesh.world.all_reduce(sum, comm::Reduce::kSum));
}

void optimizer_step(model::Instance& instance, const config::Train& config, double lr,
                    std::int64_t step, double gradient_norm) {
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
  for (const model::Parameter& p : instance.parameters.all()) {
    if (!p.spec.trained || p.owned.count == 0) {
      continue;
    }
    update.weight_decay = p.decays() ? static_cast<float>(config.weight_decay) : 0.0F;
    const bool copied = p.compute.dtype() != DType::kF32;
    instance.backend->adamw(update, p.rows_of(p.grad, p.owned), p.rows_of(p.value, p.owned),
                            p.exp_avg, p.exp_avg_sq,
                            copied ? p.rows_of(p.compute, p.owned) : Tensor());
  }
  bool shared_out = false;
  for (const model::Bucket& bucket : instance.parameters.buckets()) {
    if (bucket.counts.size() > 1) {
      instance.group_of(bucket.sum).all_gather_shares(bucket.value, bucket.counts);
      shared_out = true;
    }
  }
  if (shared_out) {
    instance.parameters.refresh_copies(*instance.backend);
  }
}

}  // namespace moesaic::train
