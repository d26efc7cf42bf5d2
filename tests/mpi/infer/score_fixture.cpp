#include "mpi/infer/score_fixture.h"

#include <fmt/format.h>

#include "base/json.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/load_weights.h"
#include "cli/jobs.h"
#include "comm/mesh.h"
#include "config/compare.h"
#include "config/validate.h"
#include "data/corpus/manifest.h"
#include "files/hdf5/thread.h"

namespace moesaic::infer {

int score(const config::Parsed& parsed, const comm::Communicator& world) {
  comm::Watchdog watchdog({}, world);
  const int code = cli::score(parsed, world, watchdog);
  watchdog.close();
  return code;
}

config::Config model_config() {
  config::Config config;
  config.model.layers = 2;
  config.model.d_model = 32;
  config.model.heads = 2;
  config.model.dense_layers = 1;
  config.model.experts = 4;
  config.model.shared_experts = 1;
  config.model.max_seq = kMaxSeq;
  config.model.vocab_size = kVocab;
  config.run.precision = DType::kF32;
  config.run.threads = 1;
  config::resolve(config, "train");
  return config;
}

data::DocumentRecord document(std::int64_t tokens, std::int64_t context, std::int64_t number) {
  data::DocumentRecord record;
  for (std::int64_t i = 0; i < tokens; ++i) {
    record.tokens.push_back(static_cast<std::int32_t>((i * i + 7 * number + i) % kVocab));
  }
  record.context = context;
  record.bytes = 3 * tokens;
  record.task = static_cast<std::uint8_t>(number % 2);
  record.id = fmt::format("doc{}", number);
  return record;
}

std::vector<Documents> shards() {
  std::vector<Documents> all(4);
  all[0] = {document(0, 0, 0), document(1, 0, 1), document(2, 0, 2),
            document(9, 4, 3), document(5, 5, 4), document(kMaxSeq + 1, 0, 5)};
  for (std::int64_t number = 10; number < 460; ++number) {
    all[1].push_back(document(20 + number % 14, 0, number));
  }
  all[3] = {document(100, 0, 500), document(80, 70, 501)};
  return all;
}

void write_corpus(const fs::path& folder, const std::string& vocab_sha256,
                  const std::vector<Documents>& all) {
  fs::create_directories(folder);
  data::CorpusInfo info;
  info.name = "tiny";
  info.manifest = folder / "tiny.json";
  info.vocab_size = kVocab;
  info.vocab_sha256 = vocab_sha256;
  info.task_names = {"none", "code"};
  for (std::int64_t s = 0; s < std::ssize(all); ++s) {
    info.shards.push_back(files::hdf5_run([&] {
      data::ShardHeader header;
      header.vocab_size = kVocab;
      header.vocab_sha256 = vocab_sha256;
      header.task_names = info.task_names;
      header.shard_index = s;
      header.shard_count = std::ssize(all);
      data::ShardWriter writer(folder / data::shard_file_name("tiny", s, header.shard_count),
                               header, false);
      for (const data::DocumentRecord& record : all[static_cast<std::size_t>(s)]) {
        writer.add(record);
      }
      return writer.finish();
    }));
    info.tokens += info.shards.back().tokens;
    info.documents += info.shards.back().documents;
  }
  data::write_corpus_manifest(info);
}

data::MicroBatch predicted(const data::DocumentRecord& record) {
  return data::text_batch(record.tokens, std::max<std::int64_t>(0, std::ssize(record.tokens) - 1));
}

void write_checkpoint(const fs::path& dir, std::int64_t seed,
                      const std::function<void(engine::Instance&)>& edit,
                      const config::Config& config) {
  const comm::Mesh mesh = comm::Mesh::single();
  engine::Instance instance(config, mesh, engine::Use::kTraining);
  instance.parameters.initialise(*instance.backend, seed);
  if (edit) {
    edit(instance);
  }
  Json flat;
  for (const auto& [key, value] : config::flatten(config)) {
    flat[key] = value;
  }
  const Json state = {
      {"config", flat}, {"step", 7}, {"task_names", {"none", "code"}}, {"vocab_sha256", "feed"}};
  const auto blocks = checkpoint::blocks_to_save(instance);
  checkpoint::save_checkpoint({dir, 7, state, {}}, blocks, comm::Communicator());
}

}  // namespace moesaic::infer
