// Speed of whole training steps on this machine, next to the rate that oneDNN reaches for large
// products in the same process:
//   train_step --config configs/model/bench.cfg --train.batch 4 --train.micro_batch 4
//     --train.steps 7 --run.precision bf16 --run.threads 2
// Every key of `train` is allowed. The tokens are random; only the FLOP of the model count
// (recomputation does not), and the first step is left out of the median.
#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <oneapi/dnnl/dnnl.hpp>

#include "base/log.h"
#include "cli/threads.h"
#include "comm/guard.h"
#include "config/options.h"
#include "config/validate.h"
#include "model/instance.h"
#include "plan/model_size.h"
#include "tensor/rng.h"
#include "train/optimizer.h"
#include "train/schedule.h"
#include "train/step.h"

namespace moesaic {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + std::ssize(values) / 2;
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// FLOP per second of oneDNN's product of two 2048 x 2048 matrices; the best of several.
double onednn_rate(bool bf16) {
  using Tag = dnnl::memory::format_tag;
  constexpr std::int64_t kSize = 2048;
  const auto type = bf16 ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32;
  const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  dnnl::stream stream(engine);
  const dnnl::memory::desc plain({kSize, kSize}, type, Tag::ab);
  const dnnl::memory::desc any({kSize, kSize}, type, Tag::any);
  const dnnl::matmul::primitive_desc made({plain, any, plain}, engine);
  dnnl::memory a(plain, engine);
  dnnl::memory b(made.weights_desc(), engine);
  dnnl::memory c(plain, engine);
  for (dnnl::memory* m : {&a, &b}) {
    std::fill_n(static_cast<std::uint16_t*>(m->get_data_handle()),
                m->get_desc().get_size() / sizeof(std::uint16_t), std::uint16_t{0x3c00});
  }
  const dnnl::matmul product(made);
  double best = INFINITY;
  for (int i = 0; i < 5; ++i) {
    const auto begin = Clock::now();
    product.execute(stream, {{DNNL_ARG_SRC, a}, {DNNL_ARG_WEIGHTS, b}, {DNNL_ARG_DST, c}});
    stream.wait();
    best = std::min(best, seconds_since(begin));
  }
  return 2.0 * std::pow(static_cast<double>(kSize), 3) / best;
}

// The same random tokens in every step; each row is one document.
std::vector<model::MicroBatch> random_batches(const config::Config& config, int replica,
                                              int replicas) {
  const Rng rng(config.train.seed, hash_name("bench tokens"));
  const auto length = static_cast<std::size_t>(config.data.seq_len);
  std::vector<model::MicroBatch> batches;
  std::uint64_t drawn = 0;
  for (std::int64_t i = 0; i < config.train.batch / config.train.micro_batch; ++i) {
    model::MicroBatch batch;
    for (std::int64_t row = 0; row < config.train.micro_batch; ++row) {
      const auto first = static_cast<std::int32_t>(batch.token.size());
      for (std::size_t t = 0; t <= length; ++t) {
        const auto id = static_cast<std::int32_t>(
            rng.uniform(drawn++) * static_cast<double>(config.model.vocab_size));
        if (t < length) {
          batch.token.push_back(id);
          batch.position.push_back(static_cast<std::int32_t>(t));
          batch.first_key.push_back(first);
        }
        if (t > 0) {
          batch.target.push_back(id);
        }
      }
    }
    batch.task.resize(batch.token.size());
    if (i % replicas == replica) {
      batches.push_back(std::move(batch));
    }
  }
  return batches;
}

struct Outcome {
  std::vector<double> seconds;  // of each step
  PhaseClock::Seconds phases{};  // of all steps but the first
  double first_loss = 0.0, last_loss = 0.0;
};

Outcome run_steps(model::Instance& instance, const config::Config& config) {
  const comm::Communicator& replicas = instance.mesh.replicas;
  const auto batches = random_batches(config, replicas.rank(), replicas.size());
  const std::int64_t tokens = config.train.batch * config.data.seq_len;
  model::MoeStats stats(std::ssize(instance.transformer.moe_layers()), config.model.experts, 1);
  model::Context ctx = instance.context();
  ctx.stats = &stats;
  ctx.step_tokens = tokens;
  Outcome outcome;
  for (std::int64_t step = 1; step <= config::total_steps(config); ++step) {
    if (step <= 2) {
      instance.clock.take();
    }
    const auto begin = Clock::now();
    stats.clear();
    train::zero_gradients(instance);
    double nats = 0.0;
    for (const auto& logprob : train::forward_backward(instance, ctx, batches,
                                                       1.0 / static_cast<double>(tokens))) {
      nats -= instance.mesh.speaks() ? std::reduce(logprob.begin(), logprob.end(), 0.0) : 0.0;
    }
    const PhaseScope phase(instance.clock, Phase::kOptimizer);
    const double norm = train::gradient_norm(instance);
    train::optimizer_step(instance, config.train, train::learning_rate(config.train, step), step,
                          norm);
    outcome.seconds.push_back(seconds_since(begin));
    outcome.last_loss =
        instance.mesh.world.all_reduce(nats, comm::Reduce::kSum) / static_cast<double>(tokens);
    outcome.first_loss = step == 1 ? outcome.last_loss : outcome.first_loss;
  }
  outcome.phases = instance.clock.take();
  return outcome;
}

void show(const Outcome& outcome, const config::Config& config, int ranks) {
  const std::vector<double> timed(outcome.seconds.begin() + 1, outcome.seconds.end());
  const double seconds = median(timed);
  const double total = std::reduce(timed.begin(), timed.end(), 0.0);
  const auto tokens = static_cast<double>(config.train.batch * config.data.seq_len);
  const double rate =
      tokens / seconds * plan::flop_per_token(config, config.data.seq_len).training;
  const double limit =
      onednn_rate(config.run.precision == config::Precision::kBf16) * static_cast<double>(ranks);
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  log::print(fmt::format(
      "{}  {:.1f} ms/step  {:.0f} tokens/s  {:.0f} GFLOP/s = {:.0f} % of oneDNN's {:.0f}  loss {:.3f} "
      "(ln V {:.3f}) -> {:.3f}  peak {:.0f} MiB",
      config.run.precision == config::Precision::kBf16 ? "bf16" : "fp32", 1e3 * seconds,
      tokens / seconds, rate / 1e9, 100.0 * rate / limit, limit / 1e9, outcome.first_loss,
      std::log(static_cast<double>(config.model.vocab_size)), outcome.last_loss,
      static_cast<double>(usage.ru_maxrss) / 1024.0));
  std::string line = "phases:";
  for (std::size_t i = 0; i < kPhaseCount; ++i) {
    if (outcome.phases[i] > 0.0) {
      line += fmt::format("  {} {:.1f} %", kPhaseNames[i], 100.0 * outcome.phases[i] / total);
    }
  }
  log::print(line);
}

int bench(const config::Parsed& parsed) {
  const comm::Communicator world = comm::Communicator::world();
  config::Config config = parsed.config;
  config.data.corpus = {"random tokens"};
  config.run.dir = "nowhere";
  config::resolve(config, "train");
  const std::vector<std::string> problems = config::problems(config, "train", world.size());
  world.together("check the config", [&] {
    require(problems.empty(), fmt::format("{}", fmt::join(problems, "\n")));
    require(config::total_steps(config) >= 2, "train.steps must be at least 2");
  });
  comm::Mesh mesh = model::make_mesh(config);
  config.run.threads = cli::choose_threads(config.run, mesh.node).count;
  {
    model::Instance instance(config, mesh, true);
    instance.parameters.initialise(*instance.backend, config.train.seed);
    show(run_steps(instance, config), config, world.size());
  }
  mesh.close();
  return 0;
}

}  // namespace
}  // namespace moesaic

int main(int argc, char** argv) {
  std::vector<const char*> arguments(argv, argv + argc);
  arguments.insert(arguments.begin() + 1, "train");
  moesaic::config::Parsed parsed;
  try {
    parsed = moesaic::config::parse(static_cast<int>(arguments.size()), arguments.data());
  } catch (const moesaic::Error& error) {
    moesaic::log::error(error.what());
    return static_cast<int>(error.code());
  }
  return moesaic::comm::guarded(argc, argv, moesaic::log::Level::kWarn,
                                [&] { return moesaic::bench(parsed); });
}
