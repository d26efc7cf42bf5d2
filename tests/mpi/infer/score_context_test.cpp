// The score job on layouts whose ranks share the rows of a batch (parallel.cp): the same bits as on
// ranks that have whole batches. And a document's bits do not depend on those packed beside it.
#include <fmt/format.h>

#include <map>

#include "base/error.h"
#include "config/validate.h"
#include "engine/instance.h"
#include "files/hdf5/thread.h"
#include "model/context_parallel.h"
#include "mpi/engine/layouts.h"
#include "mpi/infer/score_fixture.h"
#include "record/scores.h"
#include "record/trace.h"

namespace moesaic::infer {
namespace {

constexpr std::int64_t kLongSeq = 256;

// Whole documents and windows, which begin anywhere in a batch of many tiles of keys; few targets
// in a batch of its own; contexts that neighbours have in common.
std::vector<Documents> long_shards() {
  std::vector<Documents> all(4);
  all[0] = {document(300, 0, 1),   document(1, 0, 2), document(90, 70, 3), document(517, 0, 4),
            document(131, 100, 5), document(0, 0, 6), document(200, 0, 7), document(2, 0, 8)};
  all[1] = {document(3, 0, 9)};
  for (std::int64_t number = 10; number < 13; ++number) {
    for (const std::int64_t tokens : {130, 133, 150}) {
      all[3].push_back(document(tokens, 121, number));
    }
  }
  return all;
}

using Change = void (*)(config::Config&);

void windowed(config::Config& c) {
  testing::sinking(c);
  c.model.sliding_window = 70;
}
void capacity(config::Config& c) {
  testing::wide_tied(c);
  c.router.capacity = 40;
}

config::Config long_config(Change change) {
  config::Config config = model_config();
  config.model.max_seq = kLongSeq;
  change(config);
  config.run.precision = DType::kF32;
  config.run.threads = 1;
  config::resolve(config, "train");
  return config;
}

using Edit = std::function<void(config::Config&)>;

// What a scores file has, but how long it took.
struct Scores {
  std::map<std::string, std::vector<float>> tokens;
  std::vector<double> documents;
  record::ScoreTotals totals;
};

class ScoreContextTest : public ScoreTest {
 protected:
  void prepare(Change change, const std::vector<Documents>& documents = long_shards()) {
    const config::Config config = long_config(change);
    shared_experts_ = config.model.shared_experts > 0;
    if (world.is_root()) {
      write_corpus(dir / "long", "feed", documents);
      write_checkpoint(dir / "model", 3, {}, config);
    }
    world.barrier();
  }

  config::Parsed long_command(const config::Parallel& parallel, const Edit& edit) {
    config::Parsed parsed = command(fmt::format("{}.h5", count_++));
    config::Config& config = parsed.config;
    config.model.path = (dir / "model").string();
    config.data.corpus = {(dir / "long").string()};
    config.score.window = kLongSeq;
    config.score.stride = 90;
    config.parallel = parallel;
    if (edit) {
      edit(config);
    }
    return parsed;
  }

  // On rank 0; empty elsewhere.
  Scores scores(const config::Parallel& parallel, const Edit& edit = {}) {
    const config::Parsed parsed = long_command(parallel, edit);
    EXPECT_EQ(score(parsed, world), 0);
    const fs::path path = parsed.config.score.output;
    if (world.is_root()) {
      EXPECT_EQ(record::verify_trace(fs::path(path).replace_extension(".trace.h5")),
                std::vector<std::string>{});
    }
    return read(path);
  }

  Scores read(const fs::path& path) {
    Scores found;
    if (!world.is_root()) {
      return found;
    }
    EXPECT_EQ(record::verify_scores(path), std::vector<std::string>{});
    files::hdf5_run([&] {
      found.totals = record::read_scores_summary(path).value().totals;
      const auto file = files::Hdf5File::open(path);
      for (const char* const name : {"logprob", "reference_logprob", "divergence"}) {
        const std::string dataset = fmt::format("/tokens/{}", name);
        if (file.has(dataset)) {
          found.tokens[name] = file.read_all<float>(dataset);
        }
      }
      found.documents = file.read_all<double>("/documents/logprob");
    });
    return found;
  }

  void expect_same_bits(const Scores& found, const Scores& expected) {
    EXPECT_EQ(found.tokens, expected.tokens);
    EXPECT_EQ(found.documents, expected.documents);
    EXPECT_EQ(found.totals.tokens, expected.totals.tokens);
    EXPECT_EQ(found.totals.reference.divergence, expected.totals.reference.divergence);
    EXPECT_EQ(found.totals.reference.agreeing, expected.totals.reference.agreeing);
  }

  std::vector<config::Parallel> layouts() const {
    const int ranks = world.size();
    std::vector<config::Parallel> list = {{.cp = ranks}};
    if (ranks == 4) {
      list.insert(list.end(), {{.cp = 2},
                               {.ep = 2, .cp = 2},
                               {.pp = 2, .cp = 2},
                               {.tp = 2, .cp = 2},
                               {.tp = 2, .cp = 2, .sequence = true}});
      // Where the shared experts' sums over tp have the routed experts' in between, a row's bits
      // depend on the rank of tp that sends it to them.
      if (!shared_experts_) {
        list.push_back({.tp = 2, .cp = 2, .sequence = true, .expert_tp = 1});
      }
    }
    return list;
  }
  // The same with copies in place of cp.
  static config::Parallel without_cp(config::Parallel parallel) {
    parallel.cp = 1;
    return parallel;
  }

  void expect_same_scores(const Edit& edit = {}) {
    std::map<std::string, Scores> whole;
    for (const config::Parallel& layout : layouts()) {
      const config::Parallel alone = layout.tp == 1 ? config::Parallel() : without_cp(layout);
      config::Config named;
      named.parallel = alone;
      const auto [entry, added] = whole.try_emplace(testing::text_of(named));
      if (added) {
        entry->second = scores(alone, edit);
      }
      named.parallel = layout;
      SCOPED_TRACE(testing::text_of(named));
      expect_same_bits(scores(layout, edit), entry->second);
    }
  }

 private:
  int count_ = 0;
  bool shared_experts_ = false;
};

TEST_F(ScoreContextTest, SameBitsAsWholeBatches) {
  prepare(testing::wide);
  expect_same_scores();
}
TEST_F(ScoreContextTest, SameBitsInBf16) {
  prepare(testing::wide);
  expect_same_scores([](config::Config& c) {
    c.run.precision = DType::kBf16;
    c.run.deterministic = true;
  });
}
TEST_F(ScoreContextTest, SlidingWindows) {
  prepare(windowed);
  expect_same_scores();
}
TEST_F(ScoreContextTest, LatentAttention) {
  prepare(testing::latent);
  expect_same_scores();
}
// Batches with fewer tiles than ranks leave some of them without rows.
TEST_F(ScoreContextTest, SmallBatches) {
  prepare(testing::wide);
  expect_same_scores([](config::Config& c) { c.score.batch = 1; });
}
// Who gets the slots of an expert depends on the whole batch.
TEST_F(ScoreContextTest, Capacity) {
  prepare(capacity);
  expect_same_scores([](config::Config& c) { c.router.eval_capacity = true; });
}

TEST_F(ScoreContextTest, Reference) {
  prepare(testing::wide);
  expect_same_scores([](config::Config& c) {
    c.score.reference = "bf16";
    c.run.deterministic = true;
  });
}
// The sums by layer and by expert, of contexts that no two documents share: without cp an expert
// computes such a context once.
TEST_F(ScoreContextTest, ReferenceDetails) {
  prepare(testing::wide, {long_shards()[0]});
  const auto details = [](config::Config& c) {
    c.run.quantize = DType::kInt8;
    c.score.reference = "fp32";
    c.score.reference_detail = config::ReferenceDetail::kBoth;
  };
  const Scores whole = scores({}, details);
  const Scores split = scores({.cp = world.size()}, details);
  expect_same_bits(split, whole);
  const record::ReferenceDetails& expected = whole.totals.reference.details;
  const record::ReferenceDetails& found = split.totals.reference.details;
  EXPECT_EQ(found.expert_tokens, expected.expert_tokens);
  const auto expect_near = [](const std::vector<double>& a, const std::vector<double>& b) {
    ASSERT_EQ(a.size(), b.size());
    for (std::size_t i = 0; i < a.size(); ++i) {
      EXPECT_NEAR(a[i], b[i], 1e-5 * b[i]) << i;
    }
  };
  expect_near(found.layers, expected.layers);
  expect_near(found.expert_squares, expected.expert_squares);
  expect_near(found.expert_errors, expected.expert_errors);
}

// Without cp a batch holds more windows, where these share contexts: what such a job has kept of a
// shard does not end where a batch of cp does, and none of it is counted twice.
TEST_F(ScoreContextTest, GoesOnWithOtherBatches) {
  Documents documents;
  for (std::int64_t number = 0; number < 24 * world.size(); ++number) {
    documents.push_back(document(205, 201, number));
    documents.push_back(document(208, 201, number));
  }
  prepare(testing::wide, {documents});
  const Scores whole = scores({});
  for (const bool first : {true, false}) {
    const config::Parallel split{.cp = world.size()};
    config::Parsed parsed = long_command(first ? config::Parallel() : split, {});
    parsed.config.run.max_wall = 1.0;
    EXPECT_EQ(score(parsed, world), static_cast<int>(Exit::kStopped));
    parsed.config.run.max_wall = config::Config().run.max_wall;
    parsed.config.parallel = first ? split : config::Parallel();
    EXPECT_EQ(score(parsed, world), 0);
    if (world.is_root()) {
      expect_same_bits(read(parsed.config.score.output), whole);
    }
  }
}

// Samples as training packs them, two in a micro-batch: the log-probabilities of all rows.
class PackedDocuments : public ScoreContextTest {
 protected:
  static constexpr std::int64_t kSample = 420;

  static data::MicroBatch packed(std::int32_t first_token) {
    data::MicroBatch batch;
    for (std::int32_t sample = 0; sample < 2; ++sample) {
      for (const std::int32_t length : {101, 30, 289}) {
        const auto begin = static_cast<std::int32_t>(batch.size());
        for (std::int32_t i = 0; i < length; ++i) {
          const std::int32_t t = begin + i;
          batch.token.push_back((t * t + 3 * t) % static_cast<std::int32_t>(kVocab));
          batch.target.push_back(i + 1 < length ? (t + 7) % static_cast<std::int32_t>(kVocab) : -1);
          batch.position.push_back(i);
          batch.first_key.push_back(begin);
          batch.task.push_back(0);
          batch.sample.push_back(sample);
        }
      }
    }
    batch.token[50] = first_token;
    return batch;
  }

  static std::vector<float> log_probs(engine::Instance& instance, const data::MicroBatch& batch) {
    model::Context ctx = instance.context();
    ctx.batch.dropless = true;
    model::set_batch(ctx, batch);
    const Tensor hidden = instance.transformer.forward(ctx, 0, {}, nullptr);
    return model::of_all_rows(ctx, instance.transformer.head().log_probs(ctx, hidden).logprob, 1);
  }
};

// Protects: a document is learned from as if it were alone, whatever lies before it.
TEST_F(PackedDocuments, DoNotSeeEachOther) {
  for (const Change change : {testing::wide, windowed, testing::latent}) {
    config::Config config = long_config(change);
    std::vector<float> one_rank;
    for (const int cp : {1, world.size()}) {
      config.parallel.cp = cp;
      comm::Mesh mesh = cp == 1 ? comm::Mesh::single() : engine::make_mesh(config);
      {
        engine::Instance instance(config, mesh, engine::Use::kTraining);
        instance.parameters.initialise(*instance.backend, 5);
        const std::vector<float> before = log_probs(instance, packed(1));
        const std::vector<float> after = log_probs(instance, packed(2));
        ASSERT_EQ(std::ssize(before), 2 * kSample);
        EXPECT_NE(std::vector(before.begin(), before.begin() + 101),
                  std::vector(after.begin(), after.begin() + 101));
        EXPECT_EQ(std::vector(before.begin() + 101, before.end()),
                  std::vector(after.begin() + 101, after.end()));
        one_rank = one_rank.empty() ? before : one_rank;
        EXPECT_EQ(before, one_rank) << "cp " << cp;
      }
      if (cp > 1) {
        mesh.close();
      }
    }
  }
}

}  // namespace
}  // namespace moesaic::infer
