// The score job on any layout: equal to a forward of each whole document, continued after a stop,
// done again only where something changed.
#include <fmt/format.h>

#include <cmath>

#include "base/error.h"
#include "base/json.h"
#include "checkpoint/load_weights.h"
#include "comm/mesh.h"
#include "files/hdf5/thread.h"
#include "mpi/infer/score_fixture.h"
#include "record/scores.h"
#include "record/trace.h"

namespace moesaic::infer {
namespace {

// The log-probabilities of one forward over the whole document; needs tokens <= max_seq + 1.
std::vector<float> direct(engine::Instance& instance, const data::DocumentRecord& record) {
  const data::MicroBatch batch = predicted(record);
  model::Context ctx = instance.context();
  model::set_batch(ctx, batch);
  const Tensor hidden = instance.transformer.forward(ctx, 0, {}, nullptr);
  std::vector<float> all = instance.transformer.head().log_probs(ctx, hidden).logprob;
  const std::int64_t given = std::max<std::int64_t>(0, record.context - 1);
  all.erase(all.begin(), all.begin() + std::min<std::int64_t>(given, std::ssize(all)));
  return all;
}

// Window positions: a document of 100 tokens has its second window at 16, and so on.
void expect_document(engine::Instance& instance, const data::DocumentRecord& record,
                     std::span<const float> scored) {
  const auto length = std::ssize(record.tokens);
  if (length <= kMaxSeq + 1) {
    const std::vector<float> expected = direct(instance, record);
    ASSERT_EQ(scored.size(), expected.size()) << record.id;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      EXPECT_NEAR(scored[i], expected[i], 1e-5) << record.id << " token " << i;
    }
    return;
  }
  const std::int64_t first = std::max<std::int64_t>(1, record.context);
  ASSERT_EQ(std::ssize(scored), length - first);
  // The last token sees the window before it.
  data::DocumentRecord last;
  last.tokens.assign(record.tokens.end() - kMaxSeq - 1, record.tokens.end());
  EXPECT_NEAR(scored.back(), direct(instance, last).back(), 1e-5) << record.id;
}

void expect_all_documents(const fs::path& file, const fs::path& checkpoint) {
  const comm::Mesh mesh = comm::Mesh::single();
  engine::Instance instance(model_config(), mesh, engine::Use::kManyRows);
  auto reader = checkpoint::ModelSource::open(checkpoint);
  checkpoint::load_parameters(instance, reader, checkpoint::Load::kValues);
  std::vector<float> logprob;
  std::vector<std::int64_t> offsets;
  std::vector<std::string> id;
  files::hdf5_run([&] {
    const files::Hdf5File scores = files::Hdf5File::open(file);
    logprob = scores.read_all<float>("/tokens/logprob");
    offsets = scores.read_all<std::int64_t>("/documents/offsets");
    id = scores.read_strings("/documents/id");
    EXPECT_NE(scores.string_attribute("/", "model").find("step=7"), std::string::npos);
  });
  std::size_t d = 0;
  for (const Documents& shard : shards()) {
    for (const data::DocumentRecord& record : shard) {
      ASSERT_LT(d, id.size());
      EXPECT_EQ(id[d], record.id);
      const auto tokens = static_cast<std::size_t>(offsets[d + 1] - offsets[d]);
      expect_document(instance, record,
                      std::span(logprob).subspan(static_cast<std::size_t>(offsets[d]), tokens));
      ++d;
    }
  }
  EXPECT_EQ(d, id.size());
}

// Neither packing into batches nor the layout changes a document's scores.
TEST_F(ScoreTest, EqualsDirectForwardOnAnyLayout) {
  for (int ep = 1; ep <= world.size(); ep *= 2) {
    config::Parsed parsed = command(fmt::format("ep{}.h5", ep));
    parsed.config.parallel.ep = ep;
    EXPECT_EQ(score(parsed, world), 0);
    if (world.is_root()) {
      const fs::path file = parsed.config.score.output;
      expect_all_documents(file, dir / "checkpoints");
      EXPECT_EQ(record::verify_scores(file), std::vector<std::string>{});
      EXPECT_EQ(record::verify_trace(dir / fmt::format("ep{}.trace.h5", ep)),
                std::vector<std::string>{});
      EXPECT_FALSE(fs::exists(file.string() + ".parts"));
    }
  }
}

// Stopped after every part (no time is left after any iteration), it goes on where it was; finished
// parts are not written again.
TEST_F(ScoreTest, ContinuesAfterStops) {
  config::Parsed hasty = command("folder");
  hasty.config.run.max_wall = 1.0;
  EXPECT_EQ(score(hasty, world), static_cast<int>(Exit::kStopped));
  const fs::path part = dir / "folder" / "scores-00000-of-00004.h5";
  world.barrier();
  const auto written = fs::last_write_time(part);
  EXPECT_FALSE(fs::exists(dir / "folder" / "scores-00003-of-00004.h5"));
  EXPECT_FALSE(fs::exists(dir / "folder" / "scores.json"));
  EXPECT_EQ(score(command("folder"), world), 0);
  EXPECT_EQ(score(command("folder"), world), 0);
  EXPECT_EQ(fs::last_write_time(part), written);
  if (world.is_root()) {
    EXPECT_EQ(record::verify_scores(dir / "folder"), std::vector<std::string>{});
    EXPECT_EQ(record::verify_trace(dir / "folder.trace.h5"), std::vector<std::string>{});
    const auto json = Json::parse(moesaic::testing::read_file(dir / "folder" / "scores.json"));
    EXPECT_EQ(json["documents"], 458);
  }
}

// Jobs that each have time for one iteration go on within a shard, on layouts that change, and
// make the file of one undisturbed job, bit for bit.
TEST_F(ScoreTest, KeepsTheBeginningOfAShard) {
  for (const char* const reference : {"", "bf16"}) {
    config::Parsed whole = command(fmt::format("whole{}.h5", reference));
    whole.config.score.batch = 16;
    whole.config.score.reference = reference;
    EXPECT_EQ(score(whole, world), 0);
    config::Parsed hasty = command(fmt::format("hasty{}.h5", reference));
    hasty.config.score = whole.config.score;
    hasty.config.score.output = (dir / fmt::format("hasty{}.h5", reference)).string();
    hasty.config.run.max_wall = 1.0;
    int jobs = 0, code = static_cast<int>(Exit::kStopped);
    while (code == static_cast<int>(Exit::kStopped) && jobs < 100) {
      hasty.config.parallel.ep = jobs++ % 2 == 0 ? 1 : world.size();
      code = score(hasty, world);
    }
    EXPECT_EQ(code, 0);
    EXPECT_GT(jobs, 4);  // more than there are shards
    if (!world.is_root()) {
      continue;
    }
    files::hdf5_run([&] {
      const auto made = files::Hdf5File::open(hasty.config.score.output);
      const auto due = files::Hdf5File::open(whole.config.score.output);
      for (const char* const name : {"logprob", "reference_logprob", "divergence"}) {
        const std::string dataset = fmt::format("/tokens/{}", name);
        ASSERT_EQ(made.has(dataset), due.has(dataset));
        if (due.has(dataset)) {
          EXPECT_EQ(made.read_all<float>(dataset), due.read_all<float>(dataset)) << dataset;
        }
      }
      EXPECT_EQ(made.read_all<double>("/documents/logprob"),
                due.read_all<double>("/documents/logprob"));
      EXPECT_EQ(made.double_attribute("/", "bits_per_byte"),
                due.double_attribute("/", "bits_per_byte"));
    });
    EXPECT_EQ(record::verify_scores(hasty.config.score.output), std::vector<std::string>{});
    EXPECT_FALSE(fs::exists(hasty.config.score.output + ".parts"));
  }
}

// A kept beginning that the disk has damaged costs its own work, and no more.
TEST_F(ScoreTest, DamagedBeginning) {
  config::Parsed hasty = command("x.h5");
  hasty.config.score.batch = 16;
  hasty.config.run.max_wall = 1.0;
  fs::path begun;
  for (int jobs = 0; jobs < 10 && !fs::exists(begun); ++jobs) {
    EXPECT_EQ(score(hasty, world), static_cast<int>(Exit::kStopped));
    world.barrier();
    for (const auto& entry : fs::directory_iterator(dir / "x.h5.parts")) {
      begun = entry.path().extension() == ".begun" ? entry.path() : begun;
    }
  }
  ASSERT_TRUE(fs::exists(begun));
  world.barrier();
  if (world.is_root()) {
    files::hdf5_run([&] {
      const auto file = files::Hdf5File::open(begun);
      EXPECT_GT(file.extents("/tokens/logprob").at(0), 0);
    });
    const auto size = static_cast<std::int64_t>(fs::file_size(begun));
    for (std::int64_t at = size / 4; at < size; at += 64) {
      moesaic::testing::flip_bit(begun, at);
    }
  }
  world.barrier();
  config::Parsed whole = command("x.h5");
  whole.config.score.batch = 16;
  EXPECT_EQ(score(whole, world), 0);
  if (world.is_root()) {
    expect_all_documents(whole.config.score.output, dir / "checkpoints");
    EXPECT_EQ(record::verify_scores(whole.config.score.output), std::vector<std::string>{});
  }
}

// A part that a kill took away, or left half-written, is made again; the others stay.
TEST_F(ScoreTest, MakesOnlyWhatIsMissing) {
  EXPECT_EQ(score(command("folder"), world), 0);
  const auto part = [&](int shard) {
    return dir / "folder" / fmt::format("scores-{:05}-of-00004.h5", shard);
  };
  world.barrier();
  const auto kept = fs::last_write_time(part(1));
  if (world.is_root()) {
    fs::remove(part(0));
    fs::rename(part(3), part(3).string() + ".tmp");
  }
  world.barrier();
  EXPECT_EQ(score(command("folder"), world), 0);
  world.barrier();
  EXPECT_EQ(fs::last_write_time(part(1)), kept);
  if (world.is_root()) {
    EXPECT_EQ(record::verify_scores(dir / "folder"), std::vector<std::string>{});
    EXPECT_FALSE(fs::exists(part(3).string() + ".tmp"));
  }
}

// Other settings make other scores; the old ones are kept under another name.
TEST_F(ScoreTest, ChangedSettingsStartAgain) {
  EXPECT_EQ(score(command("x.h5"), world), 0);
  EXPECT_EQ(score(command("x.h5"), world), 0);
  world.barrier();
  EXPECT_FALSE(fs::exists(dir / "x.h5.1"));
  config::Parsed other = command("x.h5");
  other.config.score.stride = 5;
  EXPECT_EQ(score(other, world), 0);
  world.barrier();
  EXPECT_TRUE(fs::exists(dir / "x.h5.1"));
  EXPECT_TRUE(fs::exists(dir / "x.h5"));
}

// The tasks of an array fill one folder; one without a shard has nothing to do.
TEST_F(ScoreTest, TasksOfAnArray) {
  for (const char* task : {"1/3", "0/3", "2/3"}) {
    config::Parsed parsed = command("array");
    parsed.config.score.shards = task;
    EXPECT_EQ(score(parsed, world), 0);
  }
  config::Parsed idle = command("array");
  idle.config.score.shards = "7/8";
  EXPECT_EQ(score(idle, world), 0);
  if (world.is_root()) {
    EXPECT_EQ(record::verify_scores(dir / "array"), std::vector<std::string>{});
  }
}

// truncate = left scores the last window alone.
TEST_F(ScoreTest, TruncateLeft) {
  config::Parsed parsed = command("left.h5");
  parsed.config.score.truncate = config::Truncate::kLeft;
  EXPECT_EQ(score(parsed, world), 0);
  if (world.is_root()) {
    const auto tokens = files::hdf5_run([&] {
      return files::Hdf5File::open(dir / "left.h5").read_all<std::int64_t>("/documents/tokens");
    });
    EXPECT_EQ(tokens.at(tokens.size() - 2), kMaxSeq);
    EXPECT_EQ(tokens.back(), 10);
  }
}

// A corpus of another vocabulary is refused on every rank before any work.
TEST_F(ScoreTest, RefusesAnotherVocabulary) {
  if (world.is_root()) {
    write_corpus(dir / "other", "beef");
  }
  world.barrier();
  config::Parsed parsed = command("x.h5");
  parsed.config.data.corpus = {(dir / "other").string()};
  try {
    score(parsed, world);
    ADD_FAILURE() << "was not refused";
  } catch (const comm::AgreedError& error) {
    EXPECT_EQ(error.code(), Exit::kBadData);
    EXPECT_NE(std::string(error.what()).find("beef"), std::string::npos);
  }
}

}  // namespace
}  // namespace moesaic::infer
