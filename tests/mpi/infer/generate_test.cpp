// The job generate on any layout: equal to a forward of each whole sequence for every token, with
// stops and kills in between, and done again only where something changed.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>

#include "base/error.h"
#include "base/json.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/load_weights.h"
#include "cli/jobs.h"
#include "comm/mesh.h"
#include "config/compare.h"
#include "config/validate.h"
#include "data/corpus/manifest.h"
#include "data/corpus/shard.h"
#include "files/hdf5/thread.h"
#include "record/generations.h"
#include "record/trace.h"
#include "support/shared_dir.h"
#include "text/tokenizer.h"

namespace moesaic::infer {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kVocab = 257, kMaxSeq = 150, kNew = 9;
constexpr std::int32_t kEos = 256;

int generate(const config::Parsed& parsed, const comm::Communicator& world) {
  comm::Watchdog watchdog({}, world);
  const int code = cli::generate(parsed, world, watchdog);
  watchdog.close();
  return code;
}

enum class Kind { kGrouped, kLatent };

config::Config model_config(Kind kind) {
  config::Config config;
  config::Model& model = config.model;
  model.layers = 5;
  model.d_model = 32;
  model.heads = 4;
  model.kv_heads = 2;
  model.dense_layers = 1;
  model.experts = 4;
  model.shared_experts = 1;
  model.max_seq = kMaxSeq;
  model.vocab_size = kVocab;
  if (kind == Kind::kLatent) {
    model.kv_heads = 4;
    model.kv_lora_rank = 24;
    model.qk_nope_head_dim = 12;
    model.qk_rope_head_dim = 8;
    model.v_head_dim = 10;
  }
  config.run.precision = DType::kF32;
  config.run.threads = 1;
  config::resolve(config, "train");
  return config;
}

// Two of them begin with the same pages; one has context and continuation, one is too long, one is
// empty.
std::vector<data::DocumentRecord> documents() {
  std::vector<data::DocumentRecord> all;
  const auto add = [&](std::int64_t tokens, std::int64_t context, std::int64_t like, bool eos) {
    data::DocumentRecord record;
    for (std::int64_t i = 0; i < tokens; ++i) {
      const std::int64_t of = i < 130 ? like : std::ssize(all);
      record.tokens.push_back(static_cast<std::int32_t>((i * i + 7 * of + 3 * i) % 256));
    }
    if (eos) {
      record.tokens.push_back(kEos);
    }
    record.context = context;
    record.task = static_cast<std::uint8_t>(all.size() % 2);
    record.id = fmt::format("doc{}", all.size());
    all.push_back(record);
  };
  add(0, 0, 0, true);
  add(1, 0, 1, false);
  add(5, 3, 2, true);
  add(135, 0, 3, true);
  add(138, 0, 3, false);
  add(kMaxSeq - 4, 0, 5, true);
  add(kMaxSeq + 10, 0, 6, true);
  for (std::int64_t d = 7; d < 20; ++d) {
    add(10 + 9 * d % 50, 0, d, d % 2 == 0);
  }
  return all;
}

std::vector<std::int32_t> prompt_of(const data::DocumentRecord& record) {
  std::vector<std::int32_t> tokens = record.tokens;
  if (record.context > 0) {
    tokens.resize(static_cast<std::size_t>(record.context));
  } else if (!tokens.empty() && tokens.back() == kEos) {
    tokens.pop_back();
  }
  return tokens.empty() ? std::vector<std::int32_t>{kEos} : tokens;
}

// Three shards, the second without documents.
void write_corpus(const fs::path& folder) {
  fs::create_directories(folder);
  const std::vector<data::DocumentRecord> all = documents();
  data::CorpusInfo info;
  info.name = "prompts";
  info.manifest = folder / "prompts.json";
  info.vocab_size = kVocab;
  info.vocab_sha256 = text::Tokenizer::bytes().sha256();
  info.task_names = {"none", "code"};
  info.eos_id = kEos;
  for (std::int64_t s = 0; s < 3; ++s) {
    info.shards.push_back(files::hdf5_run([&] {
      data::ShardHeader header;
      header.vocab_size = kVocab;
      header.vocab_sha256 = info.vocab_sha256;
      header.task_names = info.task_names;
      header.eos_id = kEos;
      header.shard_index = s;
      header.shard_count = 3;
      data::ShardWriter writer(folder / data::shard_file_name("prompts", s, 3), header, false);
      for (std::size_t d = s == 0 ? 0 : 8; d < (s == 0 ? 8 : all.size()) && s != 1; ++d) {
        writer.add(all[d]);
      }
      return writer.finish();
    }));
    info.tokens += info.shards.back().tokens;
    info.documents += info.shards.back().documents;
  }
  data::write_corpus_manifest(info);
}

void write_checkpoint(const fs::path& dir, Kind kind) {
  const config::Config config = model_config(kind);
  const comm::Mesh mesh = comm::Mesh::single();
  engine::Instance instance(config, mesh, engine::Use::kTraining);
  instance.parameters.initialise(*instance.backend, 3);
  Json flat;
  for (const auto& [key, value] : config::flatten(config)) {
    flat[key] = value;
  }
  const Json state = {{"config", flat},
                      {"step", 7},
                      {"task_names", {"none", "code"}},
                      {"vocab_sha256", text::Tokenizer::bytes().sha256()}};
  const auto blocks = checkpoint::blocks_to_save(instance);
  checkpoint::save_checkpoint({dir, 7, state, {}}, blocks, comm::Communicator());
}

class GenerateTest : public ::testing::Test {
 protected:
  GenerateTest() {
    if (world.is_root()) {
      write_corpus(dir / "prompts");
      write_checkpoint(dir / "grouped", Kind::kGrouped);
      write_checkpoint(dir / "latent", Kind::kLatent);
    }
    world.barrier();
  }

  config::Parsed command(const std::string& output, Kind kind = Kind::kGrouped) const {
    config::Parsed parsed;
    parsed.job = "generate";
    parsed.config.model.path = (dir / (kind == Kind::kLatent ? "latent" : "grouped")).string();
    parsed.config.data.corpus = {(dir / "prompts").string()};
    parsed.config.generate.output = (dir / output).string();
    parsed.config.generate.max_tokens = kNew;
    parsed.config.run.precision = DType::kF32;
    parsed.config.run.threads = 1;
    return parsed;
  }

  std::vector<record::Continuation> result(const std::string& output) const {
    return files::hdf5_run([&] { return record::read_generations(dir / output); });
  }

  const testing::SharedDir shared;
  const comm::Communicator& world = shared.world;
  const fs::path& dir = shared.path;
};

// Token by token, each from a forward over all before it.
record::Continuation direct(engine::Instance& instance, const data::DocumentRecord& record) {
  record::Continuation result;
  std::vector<std::int32_t> tokens = prompt_of(record);
  result.prompt_tokens = std::ssize(tokens);
  while (std::ssize(tokens) < kMaxSeq && std::ssize(result.token) < kNew) {
    const data::MicroBatch batch = data::text_batch(tokens, std::ssize(tokens));
    model::Context ctx = instance.context();
    ctx.batch.dropless = true;
    model::set_batch(ctx, batch);
    const Tensor hidden = instance.transformer.forward(ctx, 0, {}, nullptr);
    instance.transformer.head().each_row(
        ctx, hidden, {static_cast<std::int32_t>(tokens.size()) - 1}, true,
        [&](std::size_t, const model::Head::Peak& peak, std::span<const float> logits) {
          const auto best = std::max_element(logits.begin(), logits.end());
          tokens.push_back(static_cast<std::int32_t>(best - logits.begin()));
          EXPECT_EQ(peak.best, tokens.back());
          EXPECT_EQ(peak.largest, *best);
        });
    result.token.push_back(tokens.back());
    if (tokens.back() == kEos) {
      break;
    }
  }
  return result;
}

std::vector<config::Parallel> layouts(int ranks) {
  std::vector<config::Parallel> all;
  for (int tp = 1; tp <= ranks; tp *= 2) {
    for (int pp = 1; pp * tp <= ranks; pp *= 2) {
      for (int ep = 1; ep * pp * tp <= ranks; ep *= 2) {
        config::Parallel p;
        p.tp = tp;
        p.pp = pp;
        p.ep = ep;
        p.sequence = tp > 1 && ep == 1;
        p.expert_tp = tp > 1 && pp > 1 ? 1 : tp;
        if (pp == 2) {
          p.schedule = config::PipelineSchedule::kInterleaved;
          p.virtual_stages = 2;
        }
        all.push_back(p);
      }
    }
  }
  return all;
}

// Neither the cache nor the layout changes a token.
TEST_F(GenerateTest, EqualsDirectForwardsOnAnyLayout) {
  for (const Kind kind : {Kind::kGrouped, Kind::kLatent}) {
    std::vector<record::Continuation> expected;
    if (world.is_root()) {
      const comm::Mesh mesh = comm::Mesh::single();
      engine::Instance instance(model_config(kind), mesh, engine::Use::kManyRows);
      auto reader = checkpoint::ModelSource::open(command("x", kind).config.model.path);
      checkpoint::load_parameters(instance, reader, checkpoint::Load::kValues);
      for (const data::DocumentRecord& record : documents()) {
        expected.push_back(direct(instance, record));
      }
    }
    int number = 0;
    for (const config::Parallel& parallel : layouts(world.size())) {
      const std::string output = fmt::format("{}-{}.h5", static_cast<int>(kind), ++number);
      config::Parsed parsed = command(output, kind);
      parsed.config.parallel = parallel;
      parsed.config.generate.prefill = number % 2 == 0 ? 37 : 2048;
      EXPECT_EQ(generate(parsed, world), 0);
      if (!world.is_root()) {
        continue;
      }
      const std::vector<record::Continuation> actual = result(output);
      ASSERT_EQ(actual.size(), expected.size());
      for (std::size_t d = 0; d < actual.size(); ++d) {
        EXPECT_EQ(actual[d].id, documents()[d].id);
        EXPECT_EQ(actual[d].prompt_tokens, expected[d].prompt_tokens);
        EXPECT_EQ(actual[d].token, expected[d].token) << actual[d].id << " in " << output;
      }
      EXPECT_EQ(record::verify_generations(dir / output), std::vector<std::string>{});
      EXPECT_EQ(record::verify_trace(fs::path(dir / output).replace_extension(".trace.h5")),
                std::vector<std::string>{});
      EXPECT_FALSE(fs::exists(dir / (output + ".parts")));
    }
  }
}

// Drawn tokens and their probabilities are the same bits for every batch, memory and layout of dp,
// ep and pp.
TEST_F(GenerateTest, SameBitsForEveryBatchAndLayout) {
  for (const auto precision : {DType::kF32, DType::kBf16}) {
    std::vector<record::Continuation> first;
    int number = 0;
    for (const config::Parallel& parallel : layouts(world.size())) {
      for (const std::int64_t batch : {1, 7, 32}) {
        if (parallel.tp > 1 || (number > 9 && batch == 1)) {
          continue;
        }
        const std::string output =
            fmt::format("bits-{}-{}.h5", static_cast<int>(precision), ++number);
        config::Parsed parsed = command(output);
        parsed.config.parallel = parallel;
        parsed.config.run.precision = precision;
        parsed.config.run.deterministic = true;
        parsed.config.generate.temperature = 0.9;
        parsed.config.generate.top_k = 50;
        parsed.config.generate.top_p = 0.9;
        parsed.config.generate.batch = batch;
        parsed.config.generate.prefill = batch == 7 ? 23 : 2048;
        if (batch == 32) {
          parsed.config.generate.cache = 130'000.0;  // for one or a few sequences at once
        }
        EXPECT_EQ(generate(parsed, world), 0);
        if (!world.is_root()) {
          continue;
        }
        const std::vector<record::Continuation> now = result(output);
        first = first.empty() ? now : first;
        ASSERT_EQ(now.size(), first.size());
        for (std::size_t d = 0; d < now.size(); ++d) {
          EXPECT_EQ(now[d].token, first[d].token) << now[d].id << " in " << output;
          EXPECT_EQ(now[d].logprob, first[d].logprob) << now[d].id << " in " << output;
        }
      }
    }
  }
}

// Stopped after every iteration (no time is left), it goes on where it was: finished parts are not
// made again, and the result is that of one go.
TEST_F(GenerateTest, ContinuesAfterStops) {
  EXPECT_EQ(generate(command("whole.h5"), world), 0);
  config::Parsed hasty = command("x.h5");
  hasty.config.run.max_wall = 1.0;
  hasty.config.generate.batch = 1;
  hasty.config.generate.max_tokens = 1;  // so that an iteration ends a part
  int code = static_cast<int>(Exit::kStopped);
  int starts = 0;
  while (code == static_cast<int>(Exit::kStopped) && starts < 30) {
    code = generate(hasty, world);
    ++starts;
  }
  EXPECT_EQ(code, 0);
  EXPECT_GT(starts, 2);
  if (world.is_root()) {
    const auto whole = result("whole.h5"), pieces = result("x.h5");
    ASSERT_EQ(pieces.size(), whole.size());
    for (std::size_t d = 0; d < whole.size(); ++d) {
      EXPECT_EQ(pieces[d].id, whole[d].id);
      ASSERT_EQ(pieces[d].token.size(), std::min<std::size_t>(1, whole[d].token.size()));
      if (!pieces[d].token.empty()) {
        EXPECT_EQ(pieces[d].token.front(), whole[d].token.front());
      }
    }
    EXPECT_EQ(record::verify_trace(dir / "x.trace.h5"), std::vector<std::string>{});
  }
}

// A part that a kill took away, or left half-written, is made again; the others stay, and so does
// what had no time to become a file of lines.
TEST_F(GenerateTest, MakesOnlyWhatIsMissing) {
  EXPECT_EQ(generate(command("x.h5"), world), 0);
  std::string lines;
  if (world.is_root()) {
    lines = moesaic::testing::read_file(dir / "x.jsonl");
    fs::remove(dir / "x.jsonl");
  }
  world.barrier();
  EXPECT_EQ(generate(command("x.h5"), world), 0);
  world.barrier();
  if (world.is_root()) {
    EXPECT_EQ(moesaic::testing::read_file(dir / "x.jsonl"), lines);
    EXPECT_FALSE(fs::exists(dir / "x.h5.1"));
  }
}

// Other settings make other continuations; the old ones are kept under another name.
TEST_F(GenerateTest, ChangedSettingsStartAgain) {
  EXPECT_EQ(generate(command("x.h5"), world), 0);
  config::Parsed same = command("x.h5");
  same.config.generate.batch = 3;
  EXPECT_EQ(generate(same, world), 0);
  world.barrier();
  EXPECT_FALSE(fs::exists(dir / "x.h5.1"));
  config::Parsed other = command("x.h5");
  other.config.generate.max_tokens = kNew - 1;
  EXPECT_EQ(generate(other, world), 0);
  world.barrier();
  for (const char* name : {"x.h5", "x.jsonl", "x.h5.1", "x.jsonl.1"}) {
    EXPECT_TRUE(fs::exists(dir / name)) << name;
  }
}

// A prompt that never fits is refused on every rank before any work.
TEST_F(GenerateTest, RefusesACacheThatIsTooSmall) {
  config::Parsed parsed = command("x.h5");
  parsed.config.generate.cache = 30'000.0;
  try {
    generate(parsed, world);
    ADD_FAILURE() << "was not refused";
  } catch (const comm::AgreedError& error) {
    EXPECT_EQ(error.code(), Exit::kUsage);
    EXPECT_NE(std::string(error.what()).find("generate.cache"), std::string::npos);
    EXPECT_NE(std::string(error.what()).find("doc"), std::string::npos);
  }
}

}  // namespace
}  // namespace moesaic::infer
