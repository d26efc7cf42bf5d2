// Training with the rows of micro-batches over ranks of cp, alone and with all other axes, against
// one rank: log-probabilities bit for bit, losses, counts, every gradient, and what is sent.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "config/layers.h"
#include "config/validate.h"
#include "data/context_chunks.h"
#include "mpi/engine/layouts.h"
#include "plan/traffic.h"
#include "support/golden.h"
#include "tensor/rng.h"
#include "train/optimizer.h"
#include "train/step.h"

namespace moesaic::testing {
namespace {

struct Case {
  const char* name;
  void (*change)(config::Config&);
};

// By the number of ranks; those that are missing are dp.
std::vector<config::Parallel> context_layouts(int ranks) {
  using config::PipelineSchedule;
  switch (ranks) {
    case 2:
      return {{.cp = 2}, {.cp = 2, .zero = 1}};
    case 3:
      return {{.cp = 3}};
    case 4:
      return {{.cp = 4, .zero = 1},
              {.cp = 2, .zero = 1},
              {.ep = 2, .cp = 2},
              {.tp = 2, .cp = 2, .sequence = true, .expert_tp = 2},
              {.tp = 2, .cp = 2, .expert_tp = 1},
              {.pp = 2, .cp = 2},
              {.pp = 2, .cp = 2, .schedule = PipelineSchedule::kInterleaved, .virtual_stages = 2}};
    case 8:
      return {{.tp = 2, .ep = 2, .cp = 2, .zero = 1, .sequence = true, .expert_tp = 1},
              {.pp = 2, .ep = 2, .cp = 2},
              {.ep = 2, .cp = 4, .zero = 1},
              {.ep = 2, .cp = 2},
              {.tp = 2, .pp = 2, .cp = 2, .expert_tp = 2}};
    default:
      return {{}};
  }
}

class ContextTest : public ::testing::TestWithParam<Case> {
 protected:
  static constexpr std::int64_t kSteps = 3;

  ContextTest() {
    GetParam().change(base);
    base.model.path = "needed";  // what the check of a config wants to see
    base.data.corpus = {"needed"};
    base.score.output = "needed";
    base.model.max_seq = 512;
    // One document; documents that begin anywhere, of two samples; targets at the beginning alone;
    // fewer rows than a tile of keys, so that only one rank of cp has any.
    add(300, {0}, 300);
    add(300, {0, 40, 41, 170}, 300);
    add(200, {0, 130}, 20);
    add(60, {0, 13}, 60);
  }

  void add(std::int64_t rows, const std::vector<std::int32_t>& documents, std::int64_t targets) {
    const Rng rng(7, hash_name(fmt::format("batch {}", batches.size())));
    std::uint64_t drawn = 0;
    const auto draw = [&](std::int64_t below) {
      return static_cast<std::int32_t>(rng.uniform(drawn++) * static_cast<double>(below));
    };
    data::MicroBatch batch;
    for (std::int32_t t = 0; t < rows; ++t) {
      const std::int32_t begin = *(std::upper_bound(documents.begin(), documents.end(), t) - 1);
      batch.token.push_back(draw(base.model.vocab_size));
      batch.target.push_back(t < targets ? draw(base.model.vocab_size) : -1);
      batch.position.push_back(t - begin);
      batch.first_key.push_back(begin);
      batch.task.push_back(static_cast<std::uint8_t>(t / 50 % kTasks));
      batch.sample.push_back(2 * t < rows ? 0 : 1);
    }
    batches.push_back(std::move(batch));
  }

  config::Config with(const config::Parallel& parallel, std::size_t number) const {
    config::Config c = base;
    c.parallel = parallel;
    c.train.recompute = number % 2 == 1;
    return c;
  }

  struct Result {
    Outcome outcome;
    std::vector<std::vector<float>> logprob;  // of all rows of each micro-batch, on all ranks
  };

  static routing::GateState gates_of(const config::Config& config) {  // tasks of the batch
    return config.router.task_gate ? routing::GateState{.tasks = {"code", "prose"}}
                                   : routing::GateState{};
  }

  // What this rank has of a step. Micro-batch i is of replica i mod replicas.
  std::vector<data::MicroBatch> own_batches(const comm::Mesh& mesh) const {
    const auto width = static_cast<std::size_t>(mesh[comm::Group::kBatches].size());
    std::vector<data::MicroBatch> own;
    for (std::size_t first = 0; first < batches.size(); first += width) {
      const std::size_t i = first + static_cast<std::size_t>(mesh[comm::Group::kBatches].rank());
      own.push_back(i < batches.size() ? batches[i] : data::MicroBatch());
    }
    while (own.size() % static_cast<std::size_t>(mesh[comm::Group::kPp].size()) != 0) {
      own.emplace_back();  // what an interleaved schedule needs
    }
    return own;
  }

  // Puts the rows of this rank among those of all. Collective over the mesh.
  std::vector<std::vector<float>> joined_rows(const comm::Mesh& mesh,
                                              const std::vector<std::vector<float>>& own) const {
    const auto width = static_cast<std::size_t>(mesh[comm::Group::kBatches].size());
    const comm::Communicator& cp = mesh[comm::Group::kCp];
    std::vector<std::vector<float>> all;
    for (std::size_t i = 0; i < batches.size(); ++i) {
      std::vector<float> rows(batches[i].token.size(), 0.0F);
      const bool here = i % width == static_cast<std::size_t>(mesh[comm::Group::kBatches].rank());
      if (mesh.reports() && here) {
        const auto chunks = data::context_chunks(batches[i].size(), cp.size());
        auto from = own[i / width].begin();
        for (const Slice part : data::chunks_of_rank(chunks, cp.rank(), cp.size())) {
          std::copy_n(from, part.count, rows.begin() + part.begin);
          from += part.count;
        }
        EXPECT_TRUE(from == own[i / width].end()) << "log-probabilities of other rows";
      }
      mesh.world.all_reduce(std::span(rows), comm::Reduce::kSum);  // others have zeros
      all.push_back(std::move(rows));
    }
    return all;
  }

  // Collective over the mesh.
  Result train(const config::Config& config, const comm::Mesh& mesh, std::int64_t steps,
               const Outcome* serial) const {
    engine::Instance instance(config, mesh, engine::Use::kTraining, gates_of(config));
    instance.parameters.initialise(*instance.backend, 7);
    model::MoeStats stats(layers(),
                          routing::expert_numbers(config.model, config.router, gates_of(config)),
                          kTasks, config.model.top_k);
    train::GradientBuffer buffer(instance, config.router.gradient_buffer);
    double counted = 0.0, tokens = 0.0;
    for (const data::MicroBatch& batch : batches) {
      counted += static_cast<double>(batch.counted());
      tokens += static_cast<double>(batch.size());
    }
    Result result;
    for (std::int64_t step = 1; step <= steps; ++step) {
      model::Context ctx = instance.context();
      ctx.observers = {stats.observer()};
      ctx.batch.step_tokens = static_cast<std::int64_t>(tokens);
      stats.clear();
      train::zero_gradients(instance);
      const auto own =
          train::forward_backward(instance, ctx, own_batches(mesh), train::cross_entropy(), counted)
              .logprob;
      stats.resolve(ctx);
      mesh.world.all_reduce(stats.all(), comm::Reduce::kSum);
      const auto logprob = joined_rows(mesh, own);
      double loss = 0.0;
      for (const auto& rows : logprob) {
        for (const float p : rows) {
          loss -= static_cast<double>(p) / counted;
        }
      }
      for (std::int64_t layer = 0; layer < layers(); ++layer) {
        loss += (config.router.aux_loss * stats.sums(layer)[0] +
                 config.router.z_loss * stats.sums(layer)[1]) /
                tokens;
      }
      result.outcome.losses.push_back(loss);
      buffer.add_deferred(stats);
      const double norm = train::gradient_norm(instance, buffer);
      result.outcome.norms.push_back(norm);
      if (step == 1) {
        result.logprob = logprob;
        if (serial != nullptr) {
          result.outcome.distances = distances(instance, serial->gradients);
        } else {
          result.outcome.gradients = gradients_of(instance);
        }
        for (std::int64_t layer = 0; layer < layers(); ++layer) {
          for (const auto& part : {stats.chosen(layer), stats.dropped(layer), stats.rerouted(layer),
                                   stats.processed(layer), stats.by_task(layer)}) {
            result.outcome.counts.insert(result.outcome.counts.end(), part.begin(), part.end());
          }
        }
      }
      train::optimizer_step(instance, buffer, config.train, 3e-4, step, norm);
      buffer.hold(stats);
    }
    return result;
  }

  static double most_difference(const std::vector<float>& a, const std::vector<float>& b) {
    double most = a.size() == b.size() ? 0.0 : 1.0;
    for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
      most = std::max(most, std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
    }
    return most;
  }

  // One rank alone, whose outcome all ranks get. Collective over the world.
  Result serial() const {
    const comm::Communicator world = comm::Communicator::world();
    Result result;
    if (world.is_root()) {
      result = train(with({}, 0), comm::Mesh::single(), kSteps, nullptr);
    }
    broadcast(result.outcome);
    result.logprob.resize(batches.size());
    for (std::size_t i = 0; i < batches.size(); ++i) {
      result.logprob[i].resize(batches[i].token.size());
      world.broadcast(std::span(result.logprob[i]), 0);
    }
    return result;
  }

  std::int64_t layers() const { return std::ssize(config::moe_layers(base.model)); }
  static void TearDownTestSuite() { meshes_.close(); }

  config::Config base = Golden::read("softmax").config;
  std::vector<data::MicroBatch> batches;
  static inline Meshes meshes_;
};

TEST_P(ContextTest, AsOneRank) {
  const Result alone = serial();
  const int ranks = comm::Communicator::world().size();
  for (std::size_t number = 0; const config::Parallel& parallel : context_layouts(ranks)) {
    const config::Config config = with(parallel, number++);
    SCOPED_TRACE(text_of(config));
    const auto problems = config::problems(config, "score", ranks);
    ASSERT_TRUE(problems.empty()) << problems.front();
    const Result parts = train(config, meshes_.of(config), kSteps, &alone.outcome);
    // The ranks of tp sum terms; with them, the same ones without cp have the same bits.
    config::Config other = config;
    other.parallel.cp = 1;
    const bool whole = parallel.tp == 1;
    const auto expected =
        whole ? alone.logprob : train(other, meshes_.of(other), 1, &alone.outcome).logprob;
    // Whole experts over tp add each row's output to the shared experts' term of the rank that
    // sent the row.
    const bool same_sums = whole || parallel.expert_tp != 1 || config.model.shared_experts == 0;
    for (std::size_t i = 0; i < batches.size(); ++i) {
      EXPECT_LE(most_difference(parts.logprob[i], expected[i]), same_sums ? 0.0 : 1e-5)
          << "micro-batch " << i;
    }
    for (const auto& [name, distance] : parts.outcome.distances) {
      EXPECT_LT(distance, 1e-5) << name;
    }
    EXPECT_EQ(parts.outcome.counts, alone.outcome.counts);
    EXPECT_NEAR(parts.outcome.losses[0], alone.outcome.losses[0],
                (whole ? 1e-12 : 1e-6) * alone.outcome.losses[0]);
    for (std::size_t i = 0; i < alone.outcome.losses.size(); ++i) {
      EXPECT_NEAR(parts.outcome.losses[i], alone.outcome.losses[i], 1e-5 * alone.outcome.losses[i])
          << "step " << i;
      EXPECT_NEAR(parts.outcome.norms[i], alone.outcome.norms[i], 1e-5 * alone.outcome.norms[i])
          << "step " << i;
    }
  }
}

// Protects: what `plan` says of the traffic of keys and values, to the byte for the rank that sends
// most, and of the groups that sum gradients.
TEST_P(ContextTest, TrafficIsAsPlanned) {
  constexpr std::int64_t kRows = 300, kBatches = 8;
  batches.clear();
  for (std::int64_t i = 0; i < kBatches; ++i) {
    add(kRows, {0}, kRows);
  }
  const int ranks = comm::Communicator::world().size();
  for (std::size_t number = 0; const config::Parallel& parallel : context_layouts(ranks)) {
    config::Config config = with(parallel, number++);
    SCOPED_TRACE(text_of(config));
    config.data.seq_len = kRows;
    config.train.micro_batch = 1;
    config.train.batch = kBatches;
    const comm::Mesh& mesh = meshes_.of(config);
    engine::Instance instance(config, mesh, engine::Use::kTraining, gates_of(config));
    instance.parameters.initialise(*instance.backend, 7);
    model::Context ctx = instance.context();
    ctx.batch.step_tokens = kRows * kBatches;
    train::forward_backward(instance, ctx, own_batches(mesh), train::cross_entropy(), 1.0);
    const plan::Traffic traffic = plan::traffic_per_step(
        config, plan::Layout::of(config, ranks), mesh[comm::Group::kPp].rank(), gates_of(config),
        mesh[comm::Group::kTp].rank());
    const double most = mesh[comm::Group::kCp].all_reduce(instance[comm::Group::kCp].bytes_sent(),
                                                          comm::Reduce::kMax);
    if (config.model.sliding_window == 0) {
      EXPECT_NEAR(most, traffic[comm::Group::kCp], 1e-9 * traffic[comm::Group::kCp]);
    } else {
      EXPECT_LE(most, traffic[comm::Group::kCp]) << "some keys are seen by nobody else";
    }
    EXPECT_EQ(most > 0.0, parallel.cp > 1);
    const double padding = 64.0 * 2.0 * static_cast<double>(instance.parameters.all().size());
    for (const comm::Group group : {comm::Group::kReplicas, comm::Group::kStage}) {
      const double share = parallel.zero > 0 ? 0.5 : 1.0;  // the values follow after the update
      EXPECT_NEAR(instance[group].bytes_sent(), share * traffic[group], padding);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, ContextTest,
                         ::testing::Values(Case{"wide", wide}, Case{"spares", spares},
                                           Case{"moves", moves}, Case{"latent", latent},
                                           Case{"normed", normed},
                                           Case{"windows",
                                                [](config::Config& c) {
                                                  sinking(c);
                                                  c.model.sliding_window = 70;
                                                }},
                                           Case{"drops",
                                                [](config::Config& c) {
                                                  wide_tied(c);
                                                  c.router.capacity = 0;
                                                  c.router.capacity_factor = 0.8;
                                                  c.router.aux_scope = config::AuxScope::kSequence;
                                                }}),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace moesaic::testing
