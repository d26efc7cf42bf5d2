#include "checkpoint/catalog.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "base/json.h"
#include "checkpoint/checkpoint.h"
#include "data/corpus/manifest.h"
#include "support/shared_dir.h"

namespace moesaic::checkpoint {
namespace {

namespace fs = std::filesystem;
using moesaic::testing::SharedDir;

// A corpus whose shards are empty files.
void make_corpus(const fs::path& folder, std::int64_t shards) {
  fs::create_directories(folder);
  data::CorpusInfo info;
  info.name = "text";
  info.manifest = folder / "text.json";
  info.vocab_size = 257;
  info.task_names = {"none", "code"};
  info.fingerprint = "abc";
  for (std::int64_t shard = 0; shard < shards; ++shard) {
    const fs::path file = folder / fmt::format("text-{:05}.h5", shard);
    testing::write_file(file, "");
    info.shards.push_back({file, 0, 10 + shard, 1, fmt::format("{}", shard)});
  }
  data::write_corpus_manifest(info);
}

// Protects: only rank 0 looks at the files of a start. When the others ask, they are gone.
TEST(Catalog, OthersReadNothing) {
  const SharedDir dir;
  const fs::path corpus = dir.path / "corpus";
  const fs::path checkpoints = dir.path / "checkpoints";
  const fs::path folder = dir.path / "folder";
  const std::vector<float> values = {1.0F, 2.0F};
  const Json state{{"step", 7}};
  std::vector<BlockToSave> blocks;
  if (dir.world.is_root()) {
    make_corpus(corpus, 100);
    fs::copy(fs::path(MOESAIC_GOLDEN_DIR) / "families" / "deepseek_v3", folder);
    blocks.push_back({"w", {2}, {0}, {2}, given(values)});
  }
  save_checkpoint({checkpoints, 7, state, {}}, blocks, dir.world);
  dir.world.barrier();
  Catalog catalog;
  std::string print;
  read_once(catalog, dir.world, "read", [&] {
    const data::CorpusInfo& info = catalog.corpus(corpus.string());
    EXPECT_EQ(info.shards.size(), 100U);
    EXPECT_EQ(info.tokens, 5950);
    EXPECT_EQ(info.shards[99].file, corpus / "text-00099.h5");
    EXPECT_EQ(info.task_names, (std::vector<std::string>{"none", "code"}));
    ModelSource& model = catalog.model(checkpoints);
    EXPECT_EQ(model.path(), checkpoints / "step-00000007");
    EXPECT_EQ(model.checkpoint()->state().at("step"), 7);
    print = model.fingerprint();
    ModelSource& theirs = catalog.model(folder);
    EXPECT_EQ(theirs.path(), folder);
    EXPECT_EQ(theirs.config().router.score, config::Score::kSigmoid);
    EXPECT_TRUE(theirs.special_tokens().bos.empty());
    print += theirs.fingerprint();
    if (dir.world.is_root()) {
      fs::remove_all(corpus);
      fs::remove_all(checkpoints);
      fs::remove_all(folder);
    }
  });
  std::string first = print;
  dir.world.broadcast(first, 0);
  EXPECT_EQ(print, first);
  EXPECT_EQ(print.size(), 128U);
  EXPECT_EQ(catalog.corpus(corpus.string()).fingerprint, "abc");  // read once, and kept
}

// Protects: what a rank cannot find is said by all.
TEST(Catalog, Missing) {
  const SharedDir dir;
  Catalog catalog;
  try {
    read_once(catalog, dir.world, "read", [&] { catalog.model(dir.path / "none"); });
    FAIL();
  } catch (const comm::AgreedError& error) {
    EXPECT_EQ(error.code(), Exit::kNoInput);
  }
}

// Protects: what ranks say of a checkpoint may be more than one message can hold.
TEST(Gather, InPieces) {
  const comm::Communicator world = comm::Communicator::world();
  const auto text_of = [](int rank) {
    std::string text;
    for (int i = 0; i < 40 * rank + 3; ++i) {
      text += static_cast<char>('a' + (i + rank) % 26);
    }
    return rank == 2 ? std::string() : text;
  };
  for (const std::int64_t piece : {1, 7, 64, 1 << 20}) {
    const auto texts = world.gather(text_of(world.rank()), 0, piece);
    ASSERT_EQ(std::ssize(texts), world.is_root() ? world.size() : 0);
    for (int rank = 0; rank < std::ssize(texts); ++rank) {
      EXPECT_EQ(texts[static_cast<std::size_t>(rank)], text_of(rank)) << piece;
    }
  }
}

}  // namespace
}  // namespace moesaic::checkpoint
