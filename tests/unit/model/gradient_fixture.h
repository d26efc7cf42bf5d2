#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "backend/transfer.h"
#include "model/layers/block.h"
#include "model/moe_stats.h"
#include "model/transformer.h"
#include "routing/gate_state.h"
#include "tensor/rng.h"

// What tests of backward have in common: layers, packed documents, and central differences.
namespace moesaic::model {

constexpr std::int64_t kTokens = 11, kWidth = 10, kExperts = 5, kSpares = 2;

// Three documents of 4, 1 and 6 tokens; each token has a task of its own, so that the counts by
// task are the experts of each token.
inline data::MicroBatch packed_batch() {
  data::MicroBatch batch;
  for (const int length : {4, 1, 6}) {
    const std::int32_t sample = batch.sample.empty() ? 0 : batch.sample.back() + 1;
    const auto begin = static_cast<std::int32_t>(batch.size());
    for (std::int32_t i = 0; i < length; ++i) {
      batch.task.push_back(static_cast<std::uint8_t>(batch.size()));
      batch.token.push_back(0);
      batch.target.push_back(-1);
      batch.position.push_back(i);
      batch.first_key.push_back(begin);
      batch.sample.push_back(sample);
    }
  }
  return batch;
}

inline std::vector<float> normals(std::int64_t count, std::uint64_t stream) {
  const Rng rng(3, stream);
  std::vector<float> values;
  for (std::int64_t i = 0; i < count; ++i) {
    values.push_back(static_cast<float>(rng.normal(static_cast<std::uint64_t>(i))));
  }
  return values;
}

// A layer of small odd sizes: its slopes as backward has them, and as forward shows them.
class GradientTest : public ::testing::Test {
 protected:
  explicit GradientTest(Tuning tuning = {}) : parameters(std::move(tuning)) {
    options.aux_loss = 0.5;
    options.z_loss = 0.1;
    sizes.d_model = kWidth;
    sizes.experts = kExperts;
    sizes.expert_d_ff = 7;
    sizes.shared_experts = 0;
    sizes.heads = 3;
    sizes.kv_heads = 1;
    sizes.head_dim = 6;
    sizes.rope_theta = 100.0;
    set_batch(ctx, batch);
    ctx.observers = {stats.observer()};
    ctx.batch.step_tokens = 20;
  }

  // Latent attention whose queries are latent, too.
  void set_latent_queries() {
    sizes.kv_heads = sizes.heads;
    sizes.q_lora_rank = 6;
    sizes.kv_lora_rank = 7;
    sizes.qk_nope_head_dim = 3;
    sizes.qk_rope_head_dim = 6;
    sizes.v_head_dim = 8;
  }

  Attention make_attention() { return {parameters, "attention.", sizes, 0, 1.0, 1.0, {}}; }

  LatentAttention make_latent() { return {parameters, "attention.", sizes, 0, 1.0, 1.0, {}}; }

  Moe make_moe() {
    return {
        parameters, "moe.",
        sizes,      options,
        0,          routing::make_expert_pool(routing::expert_pool_of(sizes, options, {}, 0), 1),
        tasks,      1.0,
        1.0,        {}};
  }

  Block make_block(Block::Ffn ffn) {
    RmsNorm first(parameters, "first", kWidth, 1e-5F, {});
    Attention attention = make_attention();
    RmsNorm second(parameters, "second", kWidth, 1e-5F, {});
    return {first, attention, second, std::move(ffn)};
  }

  Tensor tensor(std::int64_t rows, std::int64_t columns, std::uint64_t stream) {
    return to_device(*backend, normals(rows * columns, stream), {rows, columns});
  }

  template <Layer L>
  double loss(const L& layer, const Tensor& x, const Tensor& weight) {
    stats.clear();
    const Tensor y = layer.forward(ctx, x, nullptr);
    stats.resolve(ctx);
    double sum = (options.aux_loss * stats.sums(0)[0] + options.z_loss * stats.sums(0)[1]) /
                 static_cast<double>(ctx.batch.step_tokens);
    for (std::size_t i = 0; i < y.as<float>().size(); ++i) {
      sum += static_cast<double>(y.as<float>()[i]) * static_cast<double>(weight.as<float>()[i]);
    }
    return sum;
  }

  // The input's gradient and every parameter's, along random directions.
  template <Layer L>
  void check(const L& layer, std::int64_t in = kWidth) {
    parameters.allocate(*backend, {});
    std::uint64_t stream = 100;
    for (const Parameter& p : parameters.all()) {
      if (p.is_trained()) {
        backend->zero(p.grad);
      }
      if (p.spec.tensors.front().name.ends_with("gate.load")) {
        continue;  // counts for nothing here
      }
      const std::vector<float> values = normals(p.value.numel(), ++stream);
      const bool of_loads = p.spec.tensors.front().name.ends_with("previous_load");
      for (std::size_t i = 0; (!p.spec.state || of_loads) && i < values.size(); ++i) {
        p.value.as<float>()[i] = 0.5F * values[i];
      }
    }
    const Tensor x = tensor(kTokens, in, input_stream);
    typename L::Saved saved;
    const Tensor y = layer.forward(ctx, x, &saved);
    const Tensor weight = tensor(kTokens, y.dim(1), 2);
    const Tensor dx = layer.backward(ctx, weight, saved);
    const auto value = [&] { return loss(layer, x, weight); };
    expect_slopes("input", x, dx, value);
    for (const Parameter& p : parameters.all()) {
      if (p.is_trained()) {
        expect_slopes(p.spec.tensors.front().name, p.value, p.grad, value);
      }
    }
  }

  void expect_slopes(const std::string& name, const Tensor& at, const Tensor& gradient,
                     const std::function<double()>& value) {
    constexpr float kStep = 2e-3F;
    const std::span<float> here = at.as<float>();
    const std::vector<float> start(here.begin(), here.end());
    const Tensor squares = backend->empty(DType::kF64, {1});
    backend->sums_of_squares(std::span(&gradient, 1), squares);
    const double norm = std::sqrt(to_host_f64(*backend, squares)[0]);
    EXPECT_GT(norm, 0.0) << name;
    value();
    const std::vector<double> choices = choices_now();
    for (std::uint64_t direction = 0; direction < 4; ++direction) {
      const std::vector<float> along = normals(at.numel(), 1000 + direction);
      double slope = 0.0;
      for (std::size_t i = 0; i < along.size(); ++i) {
        slope += static_cast<double>(along[i]) * static_cast<double>(gradient.as<float>()[i]);
      }
      const auto shifted = [&](float step) {
        for (std::size_t i = 0; i < start.size(); ++i) {
          here[i] = start[i] + step * along[i];
        }
        const double result = value();
        EXPECT_EQ(choices_now(), choices) << name << ": another choice has no slope";
        std::copy(start.begin(), start.end(), here.begin());
        return result;
      };
      const double measured = (shifted(kStep) - shifted(-kStep)) / (2.0 * kStep);
      EXPECT_NEAR(slope, measured, (kinks ? 2e-2 : 2e-3) * norm)
          << name << ", direction " << direction;
    }
  }

  std::vector<double> choices_now() {
    const auto by_token = stats.by_task(0);
    std::vector<double> all(by_token.begin(), by_token.end());
    for (const auto& counts : {stats.dropped(0), stats.rerouted(0), stats.processed(0)}) {
      all.insert(all.end(), counts.begin(), counts.end());
    }
    return all;
  }

  std::uint64_t input_stream = 1;
  bool kinks = false;  // a clamp may begin or end within a difference
  config::Model sizes;
  config::Router options;
  std::vector<std::string> tasks;
  Parameters parameters;
  std::unique_ptr<Backend> backend = make_cpu_backend(1);
  comm::Communicator alone;
  std::unique_ptr<comm::Collectives> group = comm::make_mpi_collectives(*backend, alone);
  PhaseClock clock;
  data::MicroBatch batch = packed_batch();
  MoeStats stats{1, kExperts + kSpares, kTokens, 4};
  Context ctx{{.backend = *backend, .tp = *group, .cp = *group, .experts = *group, .clock = clock}};
};

}  // namespace moesaic::model
