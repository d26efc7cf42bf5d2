// Scores files: what is written is what is read, the measures follow by hand, and damage is found.
#include "record/scores.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "files/durable.h"
#include "files/hdf5/thread.h"
#include "infer/tally.h"
#include "record/scores_output.h"
#include "support/temp_dir.h"

namespace moesaic::record {
namespace {

using moesaic::testing::TempDir;
namespace fs = std::filesystem;

ScoresHeader header_of(const std::string& fingerprint) {
  return {"runs/step-00000007 step=7", "[model]\n", fingerprint, 100};
}

// Documents of 3, 0 and 2 scored tokens; `shift` makes parts differ.
void write_part(const fs::path& file, const std::string& fingerprint, float shift = 0.0F) {
  const std::vector<float> logprob{-1.0F - shift, -2.0F, -0.5F, -0.25F, -4.0F};
  const double first = -3.5 - static_cast<double>(shift);
  const ScoreTotals totals{3, 5, first - 4.25, 10.0, 7};
  files::hdf5_run([&] {
    ScoresWriter writer(file, 64, false);
    writer.add_tokens({{logprob.begin(), logprob.begin() + 2}, {}, {}, {}});
    writer.add_tokens({{logprob.begin() + 2, logprob.end()}, {}, {}, {}});
    writer.add_documents({{first, 0.0, -4.25}, {3, 0, 2}, {1, 0, 0}, {file.string(), "b", "c"}});
    writer.finish(header_of(fingerprint), totals, 12);
  });
}

// Nats and bytes are of the same documents: where the bytes are not known, neither counts.
TEST(Scores, CountBytesWithTheirNats) {
  data::ShardDocuments documents{
      .offsets = {0, 3}, .context = {0}, .bytes = {5}, .task = {0}, .id = {"a"}};
  const auto totals = [&] {
    infer::Tally tally(documents);
    tally.add({{0, 0, 2, 1}}, {{-1.0F, -2.0F}, {}, {}, {}}, std::vector<std::uint8_t>{1, 0});
    return tally.totals(100);
  };
  EXPECT_DOUBLE_EQ(totals().whole_nats, 3.0 + std::log(100.0));
  EXPECT_EQ(totals().whole_bytes, 5);
  documents.knows_bytes = false;
  documents.bytes = {0};
  EXPECT_EQ(totals().whole_nats, 0.0);
  EXPECT_EQ(totals().whole_bytes, 0);
  EXPECT_EQ(totals().logprob, -3.0);
}

// What a part says of itself comes back, and an unfinished one leaves nothing.
TEST(Scores, WriteAndRead) {
  const TempDir dir;
  write_part(dir / "a.h5", "f");
  const auto summary = files::hdf5_run([&] { return read_scores_summary(dir / "a.h5"); });
  ASSERT_TRUE(summary);
  EXPECT_EQ(summary->header.fingerprint, "f");
  EXPECT_EQ(summary->header.model, "runs/step-00000007 step=7");
  EXPECT_EQ(summary->totals.tokens, 5);
  EXPECT_EQ(summary->totals.documents, 3);
  EXPECT_EQ(summary->trace_step, 12);
  EXPECT_EQ(verify_scores(dir / "a.h5"), std::vector<std::string>{});
  files::hdf5_run([&] {
    const files::Hdf5File file = files::Hdf5File::open(dir / "a.h5");
    EXPECT_EQ(file.read_all<std::int64_t>("/documents/offsets"),
              (std::vector<std::int64_t>{0, 3, 3, 5}));
    EXPECT_EQ(file.type_of("/documents/offsets"), "u8");
    EXPECT_EQ(file.type_of("/documents/tokens"), "u8");
    EXPECT_EQ(file.type_of("/documents/greedy"), "u1");
    EXPECT_EQ(file.type_of("/documents/logprob"), "f8");
    EXPECT_EQ(file.type_of("/tokens/logprob"), "f4");
    EXPECT_DOUBLE_EQ(file.double_attribute("/", "perplexity"), std::exp(7.75 / 5.0));
    const ScoresWriter unfinished(dir / "b.h5", 1, false);
  });
  EXPECT_FALSE(fs::exists(dir / "b.h5"));
  EXPECT_FALSE(fs::exists(dir / "b.h5.tmp"));
  EXPECT_FALSE(files::hdf5_run([&] { return read_scores_summary(dir / "b.h5"); }));
}

// The joined file holds every document of the parts once, in their order.
TEST(Scores, Join) {
  const TempDir dir;
  write_part(dir / "a.h5", "f");
  write_part(dir / "b.h5", "f", 1.0F);
  files::hdf5_run([&] {
    const ScoreTotals totals =
        join_scores({dir / "a.h5", dir / "b.h5"}, dir / "ab.h5", header_of("f"));
    EXPECT_EQ(totals.documents, 6);
    EXPECT_DOUBLE_EQ(totals.logprob, -16.5);
    const files::Hdf5File file = files::Hdf5File::open(dir / "ab.h5");
    EXPECT_EQ(file.read_all<std::int64_t>("/documents/offsets"),
              (std::vector<std::int64_t>{0, 3, 3, 5, 8, 8, 10}));
    EXPECT_EQ(file.read_all<float>("/tokens/logprob")[5], -2.0F);
    EXPECT_EQ(file.read_strings("/documents/id")[3], (dir / "b.h5").string());
  });
  EXPECT_TRUE(verify_scores(dir / "ab.h5").empty());  // though both have documents "b" and "c"
}

// Two tokens beside a reference, with details of one layer and two experts.
void write_compared(const fs::path& file, float divergence) {
  ScoresHeader header = header_of("f");
  header.reference = "original step=7, fp32";
  const auto sum = static_cast<double>(divergence) + 0.25;
  ScoreTotals totals{1, 2, -3.0, 10.0, 7, {-2.0, sum, static_cast<double>(divergence), 1, {}}};
  totals.reference.details = {{1.0, 2.0}, {5}, {3.0, 0.0}, {8.0, 0.0}, {2.0, 0.0}};
  files::hdf5_run([&] {
    ScoresWriter writer(file, 64, true);
    writer.add_tokens({{-1.0F, -2.0F}, {-0.5F, -1.5F}, {0.25F, divergence}, {1, 0}});
    writer.add_documents({{-3.0}, {2}, {0}, {file.string()}});
    writer.finish(header, totals, 12);
  });
}

// What is said of a reference comes back, means follow from sums, and parts add up.
TEST(Scores, Reference) {
  const TempDir dir;
  write_compared(dir / "a.h5", 1.0F);
  write_compared(dir / "b.h5", 0.5F);
  EXPECT_EQ(verify_scores(dir / "a.h5"), std::vector<std::string>{});
  ScoresHeader header = header_of("f");
  header.reference = "original step=7, fp32";
  files::hdf5_run([&] { join_scores({dir / "a.h5", dir / "b.h5"}, dir / "ab.h5", header); });
  EXPECT_EQ(verify_scores(dir / "ab.h5"), std::vector<std::string>{});
  files::hdf5_run([&] {
    const auto summary = read_scores_summary(dir / "ab.h5");
    ASSERT_TRUE(summary);
    EXPECT_EQ(summary->header.reference, "original step=7, fp32");
    const ReferenceTotals& reference = summary->totals.reference;
    EXPECT_EQ(reference.logprob, -4.0);
    EXPECT_EQ(reference.divergence, 2.0);
    EXPECT_EQ(reference.largest, 1.0);
    EXPECT_EQ(reference.agreeing, 2);
    EXPECT_EQ(reference.details.layers, (std::vector<double>{2.0, 4.0}));
    EXPECT_EQ(reference.details.expert_layers, std::vector<std::int64_t>{5});
    EXPECT_EQ(reference.details.expert_tokens, (std::vector<double>{6.0, 0.0}));
    EXPECT_EQ(reference.details.expert_errors, (std::vector<double>{4.0, 0.0}));
    const files::Hdf5File file = files::Hdf5File::open(dir / "ab.h5");
    EXPECT_DOUBLE_EQ(file.double_attribute("/", "reference_perplexity"), std::exp(1.0));
    EXPECT_DOUBLE_EQ(file.double_attribute("/", "divergence_mean"), 0.5);
    EXPECT_DOUBLE_EQ(file.double_attribute("/", "agreement"), 0.5);
    EXPECT_EQ(file.extents("/experts/squares"), (files::Extents{1, 2}));
    EXPECT_EQ(file.read_all<float>("/tokens/divergence")[3], 0.5F);
    EXPECT_EQ(file.type_of("/tokens/agrees"), "u1");
  });
}

// verify names what the reference's columns do not bear out.
TEST(Scores, VerifyFindsADamagedReference) {
  const TempDir dir;
  write_compared(dir / "a.h5", 1.0F);
  files::hdf5_run([&] {
    files::Hdf5File file = files::Hdf5File::open_to_write(dir / "a.h5");
    file.write<float>("/tokens/divergence", {0}, {1}, std::vector<float>{0.5F});
    file.close();
  });
  const auto problems = verify_scores(dir / "a.h5");
  ASSERT_EQ(problems.size(), 1U);
  EXPECT_NE(problems[0].find("divergence 1.25"), std::string::npos) << problems[0];
}

// verify names a sum that does not follow from its tokens.
TEST(Scores, VerifyFindsDamage) {
  const TempDir dir;
  write_part(dir / "a.h5", "f");
  files::hdf5_run([&] {
    files::Hdf5File file = files::Hdf5File::open_to_write(dir / "a.h5");
    file.write<double>("/documents/logprob", {2}, {1}, std::vector<double>{-4.5});
    file.close();
  });
  const auto problems = verify_scores(dir / "a.h5");
  ASSERT_EQ(problems.size(), 2U);
  EXPECT_NE(problems[0].find("document 2"), std::string::npos);
}

// A part is used again with the same fingerprint alone; what is not is kept under another name.
TEST(Scores, OnlyTheSameFingerprintIsReused) {
  const TempDir dir;
  const ScoresOutput output(dir / "scores", 3, header_of("new"));
  output.prepare({0, 1, 2}, true);
  write_part(output.part(0), "new");
  write_part(output.part(1), "old");
  write_part(dir / "scores" / "scores-00000-of-00009.h5", "old");
  output.prepare({0, 1, 2}, true);
  EXPECT_EQ(output.parts_done(), (std::vector<std::uint8_t>{1, 0, 0}));
  EXPECT_TRUE(fs::exists(output.part(1).string() + ".1"));
  EXPECT_TRUE(fs::exists(dir / "scores" / "scores-00000-of-00009.h5.1"));
  EXPECT_EQ(output.last_trace_step({0, 1, 2}), 12);
}

// One file: it appears when it is complete, and the parts' folder goes, unless it keeps something.
TEST(Scores, OneFile) {
  const TempDir dir;
  const ScoresOutput output(dir / "x.h5", 2, header_of("f"));
  output.prepare({0, 1}, true);
  write_part(output.part(0), "f");
  write_part(output.part(1), "f", 1.0F);
  EXPECT_FALSE(output.is_finished());
  output.finish();
  EXPECT_TRUE(output.is_finished());
  const fs::path kept = dir / "x.h5.parts" / "scores-00000-of-00002.h5.1";  // it was set aside
  write_part(kept, "g");
  write_part(dir / "x.h5.parts" / "lock", "");
  output.remove_parts();
  EXPECT_TRUE(fs::exists(kept));
  EXPECT_FALSE(fs::exists(output.part(0)));
  fs::remove(kept);
  output.remove_parts();
  EXPECT_FALSE(fs::exists(dir / "x.h5.parts"));
  const ScoresOutput other(dir / "x.h5", 2, header_of("g"));
  other.prepare({0, 1}, true);
  EXPECT_FALSE(other.is_finished());
  EXPECT_TRUE(fs::exists(dir / "x.h5.1"));
}

// An output that cannot be made is refused before any work.
TEST(Scores, RefusedOutputs) {
  const TempDir dir;
  moesaic::testing::write_file(dir / "file", "");
  const auto code = [&](const fs::path& path) {
    try {
      ScoresOutput(path, 1, header_of("f")).prepare({0}, true);
    } catch (const Error& error) {
      return error.code();
    }
    return Exit::kDone;
  };
  EXPECT_EQ(code(dir / "file"), Exit::kCannotCreate);
  EXPECT_EQ(code(dir / "file" / "x.h5"), Exit::kCannotCreate);
  fs::create_directory(dir / "y.h5");
  EXPECT_EQ(code(dir / "y.h5"), Exit::kCannotCreate);
}

// The formula by hand: the first token costs ln(V), a given context leaves the document out.
TEST(Scores, BitsPerByte) {
  data::ShardDocuments documents;
  documents.offsets = {0, 3, 4, 4, 8};
  documents.context = {0, 0, 0, 2};
  documents.bytes = {10, 2, 0, 50};
  documents.task = {0, 0, 0, 0};
  infer::Tally tally(documents);
  const data::WindowBatch windows{{0, 0, 2, 1}, {3, 0, 3, 2}};
  tally.add(windows, {{-1.0F, -2.0F, -0.5F, -0.25F}, {}, {}, {}},
            std::vector<std::uint8_t>{1, 1, 1, 0});
  EXPECT_EQ(tally.documents().tokens, (std::vector<std::int64_t>{2, 0, 0, 2}));
  EXPECT_EQ(tally.documents().logprob, (std::vector<double>{-3.0, 0.0, 0.0, -0.75}));
  EXPECT_EQ(tally.documents().greedy, (std::vector<std::uint8_t>{1, 0, 0, 0}));
  const ScoreTotals totals = tally.totals(100);
  EXPECT_EQ(totals.tokens, 4);
  EXPECT_DOUBLE_EQ(totals.perplexity(), std::exp(3.75 / 4.0));
  EXPECT_DOUBLE_EQ(totals.bits_per_byte(), (3.0 + 2.0 * std::log(100.0)) / (std::log(2.0) * 12.0));
  EXPECT_TRUE(std::isnan(ScoreTotals{}.perplexity()));
  EXPECT_TRUE(std::isnan(ScoreTotals{}.bits_per_byte()));
}

}  // namespace
}  // namespace moesaic::record
