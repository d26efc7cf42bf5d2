// Protects the files of continuations: what is written reads back, a damaged one is found, lines
// are valid JSON, and parts become one output exactly once.
#include "record/generations.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/json.h"
#include "files/hdf5/thread.h"
#include "hf/folder.h"
#include "record/generations_output.h"
#include "support/temp_dir.h"

namespace moesaic::record {
namespace {

namespace fs = std::filesystem;
using moesaic::testing::read_file;
using moesaic::testing::TempDir;
using moesaic::testing::write_file;

Continuation continuation(const std::string& id, std::vector<std::int32_t> token,
                          EndReason reason = EndReason::kMaxTokens) {
  const std::vector<float> logprob(token.size(), -0.25F);
  return {id, 7, std::move(token), logprob, reason};
}

const GenerationsHeader kHeader = {"model step=3", "[run]", "print"};

GenerationsPart part_of(std::vector<Continuation> continuations) {
  GenerationsPart part{std::move(continuations), {}};
  for (const Continuation& c : part.continuations) {
    part.texts.emplace_back("text of " + c.id);
  }
  return part;
}

TEST(Generations, ReadBack) {
  const TempDir dir;
  const fs::path file = dir.path() / "g.h5";
  files::hdf5_run([&] {
    GenerationsWriter writer(file, 5);
    writer.add({});
    writer.add(std::vector{continuation("a", {1, 2, 3}, EndReason::kEos)});
    writer.add(std::vector{continuation("b", {}, EndReason::kMaxSeq), continuation("ccccc", {9})});
    EXPECT_FALSE(fs::exists(file)) << "it is visible before its end";
    EXPECT_EQ(writer.finish(kHeader, 12).tokens, 4);
    const std::vector<Continuation> all = read_generations(file);
    ASSERT_EQ(all.size(), 3U);
    EXPECT_EQ(all[0].token, (std::vector<std::int32_t>{1, 2, 3}));
    EXPECT_EQ(all[0].reason, EndReason::kEos);
    EXPECT_EQ(all[1].token.size(), 0U);
    EXPECT_EQ(all[2].id, "ccccc");
    EXPECT_EQ(all[2].prompt_tokens, 7);
    EXPECT_EQ(all[2].logprob, std::vector<float>{-0.25F});
    const auto summary = read_generations_summary(file);
    EXPECT_EQ(summary->totals.documents, 3);
    EXPECT_EQ(summary->trace_step, 12);
    EXPECT_EQ(summary->header.fingerprint, "print");
  });
  EXPECT_EQ(verify_generations(file), std::vector<std::string>{});
}

TEST(Generations, VerifyFindsDamage) {
  const TempDir dir;
  const fs::path file = dir.path() / "g.h5";
  const auto damaged = [&](const auto& change) {
    files::hdf5_run([&] {
      {
        GenerationsWriter writer(file, 1);
        writer.add(std::vector{continuation("a", {1, 2}), continuation("b", {3})});
        writer.finish(kHeader, 1);
      }
      files::Hdf5File open = files::Hdf5File::open_to_write(file);
      change(open);
      open.close();
    });
    return verify_generations(file).size();
  };
  EXPECT_EQ(damaged([](files::Hdf5File&) {}), 0U);
  EXPECT_GT(damaged([](files::Hdf5File& f) { f.set_attribute("/", "tokens", std::int64_t{5}); }),
            0U);
  EXPECT_GT(damaged([](files::Hdf5File& f) {
              f.write<std::uint64_t>("/documents/offsets", {1}, {1}, std::vector<std::uint64_t>{9});
            }),
            0U);
  EXPECT_GT(damaged([](files::Hdf5File& f) {
              f.write<std::uint8_t>("/documents/reason", {0}, {1}, std::vector<std::uint8_t>{4});
            }),
            0U);
  EXPECT_GT(damaged([](files::Hdf5File& f) {
              f.write<float>("/tokens/logprob", {0}, {1}, std::vector<float>{0.5F});
            }),
            0U);
  write_file(dir.path() / "text.h5", "no HDF5");
  EXPECT_EQ(verify_generations(dir.path() / "text.h5").size(), 1U);
}

TEST(Generations, Lines) {
  const Continuation c = continuation("x\"y", {1, 2}, EndReason::kStop);
  EXPECT_EQ(
      text_line(c, "a\n\xFF\xE2\x82 \xE2\x82\xAC"),
      "{\"id\":\"x\\\"y\",\"text\":\"a\\n\xEF\xBF\xBD\xEF\xBF\xBD \xE2\x82\xAC\",\"tokens\":2,"
      "\"reason\":\"stop\",\"logprob\":-0.5}\n");
  EXPECT_TRUE(Json::parse(text_line(c, std::nullopt))["text"].is_null());
}

// Whatever a kill leaves of the end of a job, the same two files come of it.
TEST(Generations, PartsBecomeOneOutput) {
  const TempDir dir;
  const fs::path file = dir.path() / "g.h5", lines = dir.path() / "g.jsonl";
  const GenerationsOutput output(file, 2, kHeader);
  output.prepare();
  output.write_part(1, part_of({continuation("c", {4})}), 9);
  EXPECT_EQ(output.parts_done(), (std::vector<std::uint8_t>{0, 1}));
  EXPECT_EQ(output.last_trace_step(), 9);
  write_file(output.part(0), "half of a part");
  output.prepare();
  output.write_part(0, part_of({continuation("a", {1, 2}), continuation("b", {3})}), 5);
  EXPECT_FALSE(output.is_finished());
  fs::copy(output.folder(), dir.path() / "parts");
  EXPECT_EQ(output.finish().documents, 3);
  const std::string whole = read_file(lines);
  EXPECT_NE(whole.find("text of a"), std::string::npos);
  EXPECT_LT(whole.find("text of b"), whole.find("text of c"));
  EXPECT_TRUE(output.is_finished());
  EXPECT_TRUE(fs::exists(output.part(0).string() + ".1"));
  output.remove_parts();  // but what was set aside
  EXPECT_EQ(std::distance(fs::directory_iterator(output.folder()), fs::directory_iterator()), 1);
  fs::remove(output.part(0).string() + ".1");

  // Killed between the two files.
  fs::remove(output.folder());
  fs::remove(lines);
  fs::rename(dir.path() / "parts", output.folder());
  output.prepare();
  EXPECT_FALSE(output.is_finished());
  EXPECT_EQ(output.parts_done(), (std::vector<std::uint8_t>{1, 1}));
  EXPECT_EQ(output.finish().tokens, 4);
  EXPECT_EQ(read_file(lines), whole);
  EXPECT_FALSE(fs::exists(file.string() + ".1"));
  fs::remove(output.part(0).string() + ".1");
  output.remove_parts();
  EXPECT_FALSE(fs::exists(output.folder()));
}

// Other settings: both files are kept under another name.
TEST(Generations, OtherSettingsSetBothAside) {
  const TempDir dir;
  const fs::path file = dir.path() / "g.h5";
  const GenerationsOutput output(file, 1, kHeader);
  output.prepare();
  output.write_part(0, part_of({continuation("a", {1})}), 1);
  output.finish();
  const GenerationsOutput other(file, 1, {"model step=3", "[run]", "another"});
  EXPECT_FALSE(other.is_finished());
  other.prepare();
  for (const char* name : {"g.h5.1", "g.jsonl.1"}) {
    EXPECT_TRUE(fs::exists(dir.path() / name)) << name;
  }
  EXPECT_FALSE(fs::exists(dir.path() / "g.jsonl"));
  EXPECT_EQ(other.parts_done(), std::vector<std::uint8_t>{0});
}

// One token, several, none, and the file that wins.
TEST(Generations, SpecialTokensOfAFolder) {
  hf::HfTexts texts;
  const auto expect = [&](const std::vector<std::int32_t>& bos,
                          const std::vector<std::int32_t>& eos) {
    const hf::SpecialTokens special = hf::special_tokens(texts, "folder");
    EXPECT_EQ(special.bos, bos);
    EXPECT_EQ(special.eos, eos);
  };
  expect({}, {});
  texts.config = R"({"eos_token_id": 5, "bos_token_id": 1})";
  expect({1}, {5});
  texts.generation = R"({"eos_token_id": [7, 5]})";
  expect({1}, {7, 5});
  texts.generation = R"({"bos_token_id": -1})";  // as some say none
  expect({1}, {5});
  texts.generation = R"({"eos_token_id": null, "bos_token_id": 2})";
  expect({2}, {5});
  texts.generation = "{}";
  for (const char* bad :
       {R"({"eos_token_id": -1})", R"({"eos_token_id": "x"})", R"({"bos_token_id": ["x"]})",
        R"({"eos_token_id": [1, 4294967296]})", "{"}) {
    texts.config = bad;
    EXPECT_THROW(hf::special_tokens(texts, "folder"), Error) << bad;
  }
}

}  // namespace
}  // namespace moesaic::record
