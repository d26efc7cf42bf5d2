#include "train/optimizer.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "backend/transfer.h"

namespace moesaic::train {
namespace {

// On how many ranks of the world the same element's sum lies.
int holders(engine::Instance& instance, const model::Parameter& p,
            const model::PublicTensor& tensor) {
  const int group = instance.group_of(p.spec.sum).group().size() / p.owners;
  return model::is_over_tp(p.spec.sum) ? group : group * tensor.copies;
}

// Calls use(tensor, rows) with each public tensor of a parameter, and those of the trained rows in
// which it lies, where this rank owns any.
template <class Use>
void for_each_owned(const model::Parameter& p, const Use& use) {
  for (const model::PublicTensor& tensor : p.spec.tensors) {
    const Slice rows = overlap(p.trained_rows_with(tensor), p.owned);
    if (rows.count > 0) {
      use(tensor, rows);
    }
  }
}

// The sum of squares of each such part of the gradients. Waits for the device once.
std::vector<double> sums_of_squares(engine::Instance& instance) {
  std::vector<Tensor> parts;
  for (const model::Parameter& p : instance.parameters.all()) {
    for_each_owned(
        p, [&](const model::PublicTensor&, Slice rows) { parts.push_back(p.grad_rows(rows)); });
  }
  const Tensor sums = instance.backend->empty(DType::kF64, {std::ssize(parts)});
  instance.backend->sums_of_squares(parts, sums);
  return to_host_f64(*instance.backend, sums);
}

// Sets AdamW's bias corrections, 1 - beta^step, for update number `step`, counted from 1.
void set_corrections(AdamW& update, const config::Train& config, std::int64_t step) {
  const auto n = static_cast<double>(step);
  update.correction1 = static_cast<float>(1.0 - std::pow(config.beta1, n));
  update.correction2 = static_cast<float>(1.0 - std::pow(config.beta2, n));
}

// Adds the update of those of the trained rows `wanted` that follow one rule.
void add_update(std::vector<AdamWTensors>& updates, const AdamW& update, const model::Parameter& p,
                const model::TrainedRows& rule, Slice wanted) {
  const Slice rows = overlap(rule.among_trained(), wanted);
  if (rows.count == 0) {
    return;
  }
  const Slice of_value = rule.of_parameter(rows);
  const std::int64_t first = rows.begin - p.owned.begin;
  const bool copied = p.compute.dtype() != DType::kF32;
  updates.push_back({.step = update,
                     .grad = p.grad_rows(rows),
                     .value = p.rows_of(p.value, of_value),
                     .exp_avg = p.exp_avg.rows(first, rows.count),
                     .exp_avg_sq = p.exp_avg_sq.rows(first, rows.count),
                     .copy = copied ? p.rows_of(p.compute, of_value) : Tensor()});
}

// Copies these trained rows of the value to where the gradient of them lies, or back.
enum class Towards { kGradient, kValue };
void copy_trained(Backend& backend, const model::Parameter& p, Slice wanted, Towards towards) {
  for (const model::TrainedRows& trained : p.trained) {
    const Slice rows = overlap(trained.among_trained(), wanted);
    if (rows.count > 0) {
      const Tensor value = p.rows_of(p.value, trained.of_parameter(rows));
      const Tensor gradient = p.grad_rows(rows);
      const bool to_value = towards == Towards::kValue;
      backend.convert(to_value ? gradient : value, to_value ? value : gradient);
    }
  }
}

// Every rank gets the values that others have updated. Where a member has frozen rows, they go
// through the memory of the gradients, which nobody reads any more. Collective over the sum's
// group.
void gather_values(engine::Instance& instance, const model::Bucket& bucket) {
  comm::Collectives& group = instance.group_of(bucket.sum);
  if (bucket.is_whole()) {
    group.all_gather_shares(bucket.value, bucket.counts);
    return;
  }
  for (const model::Parameter* const p : bucket.members) {
    copy_trained(*instance.backend, *p, p->owned, Towards::kGradient);
  }
  group.all_gather_shares(bucket.grad, bucket.counts);
  for (const model::Parameter* const p : bucket.members) {
    copy_trained(*instance.backend, *p, {0, p->trained_rows()}, Towards::kValue);
  }
}

}  // namespace

double gradient_norm(engine::Instance& instance, const GradientBuffer& buffer) {
  const std::vector<double> sums = sums_of_squares(instance);
  double sum = 0.0;
  for (auto next = sums.begin(); const model::Parameter& p : instance.parameters.all()) {
    const std::vector<UpdateRows> updates = buffer.updates(p, 1);
    double of_parameter = 0.0;
    for_each_owned(p, [&](const model::PublicTensor& tensor, Slice rows) {
      const double all = *next++ / holders(instance, p, tensor);
      const bool applied = std::any_of(updates.begin(), updates.end(), [&](const UpdateRows& u) {
        return overlap(u.rows, rows).count > 0;
      });
      of_parameter += applied || !std::isfinite(all) ? all : 0.0;
    });
    sum += of_parameter;
  }
  return std::sqrt(instance.mesh.world.all_reduce(sum, comm::Reduce::kSum));
}

void optimizer_step(engine::Instance& instance, const GradientBuffer& buffer,
                    const config::Train& config, double lr, std::int64_t step,
                    double gradient_norm) {
  const bool clipped = config.clip > 0.0 && gradient_norm > config.clip;
  AdamW update{.lr = static_cast<float>(lr),
               .beta1 = static_cast<float>(config.beta1),
               .beta2 = static_cast<float>(config.beta2),
               .eps = static_cast<float>(config.eps),
               .weight_decay = 0.0F,
               .correction1 = 1.0F,
               .correction2 = 1.0F,
               .grad_scale = clipped ? static_cast<float>(config.clip / gradient_norm) : 1.0F};
  std::vector<AdamWTensors> updates;
  for (const model::Parameter& p : instance.parameters.all()) {
    if (p.owned.count == 0) {
      continue;
    }
    for (const auto& [rows, number] : buffer.updates(p, step)) {
      set_corrections(update, config, number);
      for (const model::TrainedRows& trained : p.trained) {
        update.lr = static_cast<float>(lr * static_cast<double>(trained.lr_scale));
        update.weight_decay = trained.decays ? static_cast<float>(config.weight_decay) : 0.0F;
        add_update(updates, update, p, trained, rows);
      }
    }
  }
  instance.backend->adamw(updates);
  bool shared_out = false;
  for (const model::Bucket& bucket : instance.parameters.buckets()) {
    if (bucket.counts.size() > 1) {
      gather_values(instance, bucket);
      shared_out = true;
    }
  }
  if (shared_out) {
    instance.parameters.refresh_copies(*instance.backend);
  }
}

}  // namespace moesaic::train
