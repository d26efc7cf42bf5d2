// Speed of whole steps on this machine, next to the rate that oneDNN reaches for large products in
// the same process:
//   train_step [forward] --config configs/model/bench.cfg --train.batch 4 --train.micro_batch 4
//     --train.steps 7 --run.precision bf16 --run.threads 2
// Every key of `train` is allowed; "forward" stops at the tokens' log-probabilities, as `score`
// does. The tokens are random; only the FLOP of the model count (recomputation does not). The first
// step is left out. The last line is the same as JSON.
#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>
#include <numeric>
#include <oneapi/dnnl/dnnl.hpp>

#include "backend/cpu/instruction_set.h"
#include "base/log.h"
#include "base/text.h"
#include "cli/threads.h"
#include "comm/guard.h"
#include "config/enum_names.h"
#include "config/options.h"
#include "config/validate.h"
#include "engine/instance.h"
#include "engine/pipeline.h"
#include "plan/model_size.h"
#include "tensor/rng.h"
#include "train/stepper.h"

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

// FLOP per second of oneDNN's product of two 2048 x 2048 matrices; the best of several. Its
// products of bf16 need AVX-512: elsewhere that of fp32 is the measure.
double onednn_rate(bool bf16) {
  using Tag = dnnl::memory::format_tag;
  constexpr std::int64_t kSize = 2048;
  const auto type = bf16 && cpu::avx512_is_usable() ? dnnl::memory::data_type::bf16
                                                    : dnnl::memory::data_type::f32;
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
data::StepBatches random_batches(const config::Config& config, int replica, int replicas) {
  const Rng rng(static_cast<std::uint64_t>(config.train.seed), hash_name("bench tokens"));
  const auto length = static_cast<std::size_t>(config.data.seq_len);
  data::StepBatches batches;
  std::uint64_t drawn = 0;
  for (std::int64_t i = 0; i < config.train.batch / config.train.micro_batch; ++i) {
    data::MicroBatch batch;
    for (std::int64_t row = 0; row < config.train.micro_batch; ++row) {
      const auto first = static_cast<std::int32_t>(batch.token.size());
      for (std::size_t t = 0; t <= length; ++t) {
        const auto id = static_cast<std::int32_t>(rng.uniform(drawn++) *
                                                  static_cast<double>(config.model.vocab_size));
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
      batches.counted += batch.counted();
      batches.micro_batches.push_back(std::move(batch));
    }
  }
  return batches;
}

struct Outcome {
  std::vector<double> seconds;   // of each step
  PhaseClock::Seconds phases{};  // of all steps but the first
  double first_loss = 0.0, last_loss = 0.0;
};

// What one step does; returns its loss.
using Step = std::function<double(std::int64_t step)>;

Step training_step(train::Stepper& stepper, const data::StepBatches& batches) {
  return [&](std::int64_t step) {
    const train::StepResult result = stepper.compute(batches, step);
    stepper.update(result);
    return result.lm_loss;
  };
}

Step forward_step(engine::Instance& instance, const data::StepBatches& batches) {
  return [&](std::int64_t step) {
    model::Context ctx = instance.context();
    ctx.batch.step = step;
    ctx.batch.dropless = true;
    double nats = 0.0;
    engine::forward_all(
        instance, ctx, batches.micro_batches, [&](std::size_t, const Tensor& hidden) {
          const PhaseScope phase(ctx.clock, Phase::kForward);
          for (const float p : instance.transformer.head().log_probs(ctx, hidden).logprob) {
            nats -= static_cast<double>(p);
          }
        });
    const auto targets = static_cast<double>(batches.counted);
    return instance.mesh.reports() ? nats / targets : 0.0;
  };
}

Outcome run_steps(engine::Instance& instance, const Step& step, std::int64_t steps) {
  Outcome outcome;
  for (std::int64_t i = 1; i <= steps; ++i) {
    if (i <= 2) {
      instance.clock.take();
    }
    const auto begin = Clock::now();
    outcome.last_loss = step(i);
    outcome.seconds.push_back(seconds_since(begin));
    outcome.first_loss = i == 1 ? outcome.last_loss : outcome.first_loss;
  }
  outcome.phases = instance.clock.take();
  return outcome;
}

std::string routing_of(const config::Config& config) {
  for (const auto& [force, name] : config::names_of(config::Force{})) {
    if (force == config.router.force) {
      return std::string(force == config::Force::kNone ? "natural" : name);
    }
  }
  return "";
}

void show(const Outcome& outcome, const config::Config& config, bool forward, int ranks) {
  const std::vector<double> timed(outcome.seconds.begin() + 1, outcome.seconds.end());
  const double seconds = median(timed);
  const double total = std::reduce(timed.begin(), timed.end(), 0.0);
  const auto tokens = static_cast<double>(config.train.batch * config.data.seq_len);
  const plan::Flop flop =
      plan::flop_per_token(config.model, plan::model_size(config), config.data.seq_len);
  const double rate = tokens / seconds * (forward ? flop.forward : flop.training);
  const bool bf16 = config.run.precision == DType::kBf16;
  const double limit = onednn_rate(bf16) * ranks;
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  nlohmann::ordered_json row = {{"job", forward ? "forward" : "train"},
                                {"precision", bf16 ? "bf16" : "fp32"},
                                {"threads", config.run.threads},
                                {"ranks", ranks},
                                {"routing", routing_of(config)},
                                {"tokens", tokens},
                                {"seconds", seconds},
                                {"tokens_per_second", tokens / seconds},
                                {"flop_per_second", rate},
                                {"onednn_flop_per_second", limit},
                                {"of_onednn", rate / limit},
                                {"first_loss", outcome.first_loss},
                                {"last_loss", outcome.last_loss},
                                {"peak_mib", static_cast<double>(usage.ru_maxrss) / 1024.0}};
  std::string phases;
  for (std::size_t i = 0; i < kPhaseCount; ++i) {
    row["phases"][kPhaseNames[i]] = outcome.phases[i] / total;
    if (outcome.phases[i] > 0.0) {
      phases += fmt::format("  {} {:.1f} %", kPhaseNames[i], 100.0 * outcome.phases[i] / total);
    }
  }
  log::print(fmt::format(
      "{} {}  {:.1f} ms/step  {:.0f} tokens/s  {:.0f} GFLOP/s = {:.0f} % of oneDNN's {:.0f}  loss "
      "{:.3f} (ln V {:.3f}) -> {:.3f}  peak {:.0f} MiB\nphases:{}\n{}",
      row["job"].get<std::string>(), row["precision"].get<std::string>(), 1e3 * seconds,
      tokens / seconds, rate / 1e9, 100.0 * rate / limit, limit / 1e9, outcome.first_loss,
      std::log(static_cast<double>(config.model.vocab_size)), outcome.last_loss,
      static_cast<double>(usage.ru_maxrss) / 1024.0, phases, row.dump()));
}

config::Config checked(const config::Parsed& parsed, const comm::Communicator& world) {
  config::Config config = parsed.config;
  config.data.corpus = {"random tokens"};
  config.run.dir = "nowhere";
  config::resolve(config, "train");
  const std::vector<std::string> problems = config::problems(config, "train", world.size());
  world.together("check the config", [&] {
    require(problems.empty(), join(problems, "\n"));
    require(config::total_steps(config) >= 2, "train.steps must be at least 2");
  });
  return config;
}

int bench(const config::Parsed& parsed, bool forward) {
  const comm::Communicator world = comm::Communicator::world();
  config::Config config = checked(parsed, world);
  comm::Mesh mesh = engine::make_mesh(config);
  config.run.threads = cli::choose_threads(config.run, mesh.node).count;
  {
    engine::Instance instance(config, mesh,
                              forward ? engine::Use::kManyRows : engine::Use::kTraining);
    instance.parameters.initialise(*instance.backend, config.train.seed);
    const data::StepBatches batches = random_batches(config, mesh[comm::Group::kBatches].rank(),
                                                     mesh[comm::Group::kBatches].size());
    const std::int64_t steps = config::total_steps(config);
    if (forward) {
      show(run_steps(instance, forward_step(instance, batches), steps), config, true, world.size());
    } else {
      train::Stepper stepper(config, instance, 1);
      show(run_steps(instance, training_step(stepper, batches), steps), config, false,
           world.size());
    }
  }
  mesh.close();
  return 0;
}

}  // namespace
}  // namespace moesaic

int main(int argc, char** argv) {
  std::vector<const char*> arguments(argv, argv + argc);
  const bool forward = argc > 1 && std::string_view(argv[1]) == "forward";
  if (forward) {
    arguments.erase(arguments.begin() + 1);
  }
  arguments.insert(arguments.begin() + 1, "train");
  moesaic::config::Parsed parsed;
  try {
    parsed = moesaic::config::parse(static_cast<int>(arguments.size()), arguments.data());
  } catch (const moesaic::Error& error) {
    moesaic::log::error(error.what());
    return static_cast<int>(error.code());
  }
  return moesaic::comm::guarded(argc, argv, moesaic::log::Level::kWarn,
                                [&] { return moesaic::bench(parsed, forward); });
}
