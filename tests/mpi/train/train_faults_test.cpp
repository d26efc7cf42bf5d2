// A whole run whose hardware slips once, against one whose does not.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "backend/cpu/cpu_backend.h"
#include "base/error.h"
#include "checkpoint/catalog.h"
#include "config/validate.h"
#include "config/value.h"
#include "data/corpus/manifest.h"
#include "data/corpus/shard.h"
#include "files/hdf5/file.h"
#include "files/hdf5/thread.h"
#include "support/temp_dir.h"
#include "train/loop.h"

namespace moesaic::train {
namespace {

using moesaic::testing::TempDir;

constexpr std::int32_t kVocab = 64;
constexpr int kSteps = 6;
constexpr int kNever = -1;

// What goes wrong on rank 0.
struct Slips {
  int first_bad = kNever, end_bad = kNever;  // calls of its head that give a NaN
  int drift = kNever;                        // the update that leaves a bit wrong in a weight
};

class SlippingBackend : public cpu::CpuBackend {
 public:
  explicit SlippingBackend(const Slips& slips)
      : CpuBackend(1, cpu::best_kernels()), slips_(slips) {}

  void cross_entropy_backward(const Tensor& logits, const Tensor& target, const Tensor& stats,
                              const Tensor& weight, const Tensor& dlogits,
                              const Tensor& spread) override {
    CpuBackend::cross_entropy_backward(logits, target, stats, weight, dlogits, spread);
    if (slips_.first_bad <= calls_ && calls_ < slips_.end_bad) {
      dlogits.as<float>()[0] = std::numeric_limits<float>::quiet_NaN();
    }
    ++calls_;
  }

  void adamw(std::span<const AdamWTensors> tensors) override {
    CpuBackend::adamw(tensors);
    for (const AdamWTensors& updated : tensors) {
      if (updates_++ == slips_.drift) {
        updated.value.as<float>()[0] = std::nextafter(updated.value.as<float>()[0], 2.0F);
      }
    }
  }

 private:
  Slips slips_;
  int calls_ = 0, updates_ = 0;
};

void write_corpus(const std::filesystem::path& folder) {
  std::filesystem::create_directories(folder);
  data::CorpusInfo info;
  info.name = folder.filename();
  info.manifest = folder / (info.name + ".json");
  info.vocab_size = kVocab;
  info.task_names = {"none"};
  data::ShardHeader header;
  header.vocab_size = kVocab;
  header.shard_count = 1;
  header.task_names = info.task_names;
  data::ShardWriter writer(folder / data::shard_file_name(info.name, 0, 1), header, false);
  data::DocumentRecord record;
  for (std::int32_t i = 0; i < 2000; ++i) {
    record.tokens.push_back(i * i % kVocab);
  }
  writer.add(record);
  info.shards.push_back(writer.finish());
  info.tokens = info.shards.back().tokens;
  info.documents = info.shards.back().documents;
  data::write_corpus_manifest(info);
}

struct Ran {
  std::vector<double> loss;
  std::vector<float> values;  // of all parameters on this rank
  std::vector<std::string> events;
  std::string error;
};

class TrainFaults : public ::testing::Test {
 protected:
  TrainFaults() {
    files::hdf5_run([&] { write_corpus(dir / "text"); });
    config.model.layers = 2;
    config.model.d_model = 16;
    config.model.heads = 2;
    config.model.experts = 4;
    config.model.vocab_size = kVocab;
    config.model.max_seq = 16;
    config.router.balance = config::Balance::kBias;
    config.data.corpus = {dir / "text"};
    config.data.seq_len = 16;
    config.train.batch = std::int64_t{2} * world.size();
    config.train.micro_batch = 2;
    config.train.steps = kSteps;
    config.train.warmup = 1;
    config.run.threads = 1;
    config.run.precision = DType::kF32;
    config.trace.path = dir / "trace.h5";
    config::resolve(config, "train");
  }

  // Collective over the world. The head is called once in each step and in each that is run again.
  Ran run(const Slips& slips) {
    std::filesystem::remove(config.trace.path);
    comm::Mesh mesh = engine::make_mesh(config);
    checkpoint::Catalog catalog;
    data::Corpora corpora = data::Corpora::open(catalog.corpora(config.data.corpus));
    const RunData data = data_of(corpora);
    data::Corpora none;
    data::Samples samples = data::Samples::make(corpora, config.data, mesh.world);
    data::Samples no_samples;
    SavePolicy policy(config, kSteps, 0.0, 0.0);
    comm::Watchdog watchdog({}, mesh.world);
    Session session{.config = config,
                    .mesh = mesh,
                    .corpora = corpora,
                    .samples = samples,
                    .eval_corpora = none,
                    .eval_samples = no_samples,
                    .data = data,
                    .catalog = catalog,
                    .watchdog = watchdog};
    load(session);
    engine::Instance& instance = *session.instance;
    const auto former = std::exchange(
        instance.backend, std::make_unique<SlippingBackend>(world.is_root() ? slips : Slips{}));
    Ran ran;
    try {
      run_loop(session, policy, 0);
    } catch (const comm::AgreedError& error) {
      EXPECT_EQ(error.code(), Exit::kBadNumbers);
      ran.error = error.what();
    }
    watchdog.close();
    for (const model::Parameter& p : instance.parameters.all()) {
      const auto values = p.value.as<float>();
      ran.values.insert(ran.values.end(), values.begin(), values.end());
    }
    if (world.is_root()) {
      files::hdf5_run([&] {
        const files::Hdf5File trace = files::Hdf5File::open(config.trace.path);
        ran.loss = trace.read_all<double>("/loss");
        ran.events = trace.read_strings("/events/kind");
        for (const std::string& message : trace.read_strings("/events/message")) {
          ran.events.push_back(message);
        }
      });
    }
    mesh.close();
    return ran;
  }

  comm::Communicator world = comm::Communicator::world();
  TempDir dir;
  config::Config config;
};

// Protects: numbers that are bad once cost nothing but time: the run ends as an undisturbed one,
// bit for bit, and says in which step it happened.
TEST_F(TrainFaults, BadOnceIsRunAgain) {
  const Ran sound = run({});
  const Ran slipped = run({.first_bad = 2, .end_bad = 3});
  EXPECT_EQ(slipped.error, "");
  EXPECT_EQ(slipped.values, sound.values);
  EXPECT_EQ(slipped.loss, sound.loss);
  if (world.is_root()) {
    EXPECT_EQ(sound.events.size(), 0U);
    EXPECT_EQ(slipped.loss.size(), static_cast<std::size_t>(kSteps));
    ASSERT_EQ(slipped.events.size(), 2U);
    EXPECT_EQ(slipped.events[0], "transient_numbers");
    EXPECT_NE(slipped.events[1].find("gradient norm nan"), std::string::npos) << slipped.events[1];
  }
}

// Protects: numbers that are bad twice end the run before they reach a parameter, with the samples.
TEST_F(TrainFaults, BadTwiceEnds) {
  const Ran slipped = run({.first_bad = 2, .end_bad = 4});
  EXPECT_NE(slipped.error.find("step 3: "), std::string::npos) << slipped.error;
  EXPECT_NE(slipped.error.find("twice"), std::string::npos) << slipped.error;
  const std::int64_t first = 2 * config.train.batch;
  const std::string samples =
      "samples " + config::format_samples({first, first + config.train.batch});
  EXPECT_NE(slipped.error.find(samples), std::string::npos) << slipped.error;
  for (const float value : slipped.values) {
    ASSERT_TRUE(std::isfinite(value));
  }
  if (world.is_root()) {
    ASSERT_EQ(slipped.events.size(), 2U);
    EXPECT_EQ(slipped.events[0], "bad_numbers");
  }
}

// Protects: a wrong bit in one replica ends the run at the next comparison, with step and tensor.
TEST_F(TrainFaults, ReplicasThatDifferEnd) {
  if (world.size() == 1) {
    GTEST_SKIP() << "one rank has nobody to compare with";
  }
  config.parallel.zero = 0;  // else the owner's value goes to all
  config.run.compare_replicas = 2;
  const Ran drifted = run({.drift = 0});
  EXPECT_NE(drifted.error.find("step 2: "), std::string::npos) << drifted.error;
  EXPECT_NE(drifted.error.find("model.embed_tokens.weight"), std::string::npos) << drifted.error;
  EXPECT_NE(drifted.error.find("last alike after step 0"), std::string::npos) << drifted.error;
  if (world.is_root()) {
    EXPECT_EQ(drifted.loss.size(), 2U);
    EXPECT_EQ(drifted.events.at(0), "replicas_differ");
  }
}

}  // namespace
}  // namespace moesaic::train
