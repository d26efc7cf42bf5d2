// Protects what a replica computes in each iteration: every token of every sequence once and in
// order, whatever the batch, the memory and the pieces; and where continuations end.
#include "infer/scheduler.h"

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <span>
#include <string>

namespace moesaic::infer {
namespace {

data::Prompt prompt(std::int64_t document, std::int64_t tokens) {
  data::Prompt p;
  p.document = document;
  p.id = "d" + std::to_string(document);
  for (std::int64_t i = 0; i < tokens; ++i) {
    p.tokens.push_back(static_cast<std::int32_t>((document * 31 + i) % 90));
  }
  return p;
}

// A stand-in for the model: the next token follows from the document and the length.
Sample next_of(const SequenceRun& run) {
  const std::int64_t place = run.sequence->tokens();
  return {static_cast<std::int32_t>((run.sequence->prompt().document * 7 + place * 3) % 100),
          -0.5F};
}

struct Outcome {
  std::map<std::int64_t, record::Continuation> results;
  std::size_t iterations = 0, most_running = 0;
  std::int64_t rows = 0;
};

Outcome run_all(const GenerateRules& rules, std::int64_t pages, std::vector<data::Prompt> prompts) {
  Scheduler scheduler(rules, pages);
  Outcome outcome;
  std::map<std::int64_t, std::int64_t> cached;
  for (data::Prompt& p : prompts) {
    scheduler.add(std::move(p));
  }
  while (!scheduler.is_idle()) {
    const std::vector<SequenceRun> runs = scheduler.plan();
    EXPECT_FALSE(runs.empty()) << "nothing goes on";
    if (runs.empty()) {
      break;
    }
    std::vector<Sample> samples;
    std::set<std::int64_t> documents;
    std::int64_t of_prompts = 0;
    for (const SequenceRun& run : runs) {
      const std::int64_t document = run.sequence->prompt().document;
      EXPECT_TRUE(documents.insert(document).second) << "one run of a sequence in an iteration";
      EXPECT_GT(run.rows, 0);
      outcome.rows += run.rows;
      if (cached.contains(document)) {
        EXPECT_EQ(run.first, cached[document]);
      }
      cached[document] = run.first + run.rows;
      EXPECT_LE(cached[document], std::ssize(run.sequence->pages()) * kPageTokens);
      of_prompts += run.first < std::ssize(run.sequence->prompt().tokens) ? run.rows : 0;
      if (run.samples()) {
        samples.push_back(next_of(run));
      }
    }
    EXPECT_LE(of_prompts, rules.prefill);
    EXPECT_LE(std::ssize(runs), rules.batch);
    outcome.most_running = std::max(outcome.most_running, runs.size());
    ++outcome.iterations;
    for (const auto& ended : scheduler.finish(runs, samples)) {
      outcome.results[ended->prompt().document] = ended->result();
    }
  }
  return outcome;
}

std::vector<data::Prompt> many() {
  std::vector<data::Prompt> prompts;
  for (std::int64_t d = 0; d < 40; ++d) {
    prompts.push_back(prompt(d, 1 + d * 37 % 200));
  }
  return prompts;
}

TEST(Scheduler, ResultsDoNotDependOnBatchMemoryOrPieces) {
  GenerateRules rules{.max_tokens = 30, .max_seq = 210, .ends = {13}};
  rules.batch = 1;
  rules.prefill = 1000;
  const Outcome alone = run_all(rules, 4, many());
  EXPECT_EQ(alone.results.size(), 40U);
  EXPECT_EQ(alone.most_running, 1U);
  for (const std::int64_t batch : {3, 40}) {
    for (const std::int64_t pages : {4, 11, 500}) {
      for (const std::int64_t prefill : {1, 50, 5000}) {
        rules.batch = batch;
        rules.prefill = prefill;
        const Outcome outcome = run_all(rules, pages, many());
        ASSERT_EQ(outcome.results.size(), 40U);
        for (const auto& [document, result] : outcome.results) {
          EXPECT_EQ(result.token, alone.results.at(document).token) << document;
          EXPECT_EQ(result.reason, alone.results.at(document).reason) << document;
        }
      }
    }
  }
}

TEST(Scheduler, SequencesRunTogether) {
  GenerateRules rules{.max_tokens = 20, .max_seq = 1000, .ends = {}};
  rules.batch = 16;
  rules.prefill = 2000;
  const Outcome outcome = run_all(rules, 100, many());
  EXPECT_EQ(outcome.most_running, 16U);
  EXPECT_LT(outcome.iterations, 100U);
}

// The pages that prompts begin with alike are computed for the first of them alone.
TEST(Scheduler, SharedBeginningsAreComputedOnce) {
  GenerateRules rules{.max_tokens = 4, .max_seq = 1000, .ends = {}};
  rules.batch = 4;
  rules.prefill = 140;  // the first prompt alone
  std::vector<data::Prompt> prompts;
  for (std::int64_t d = 0; d < 6; ++d) {
    prompts.push_back(prompt(5, 140));
    prompts.back().document = d;
    prompts.back().tokens.back() = static_cast<std::int32_t>(d);
  }
  const Outcome outcome = run_all(rules, 100, prompts);
  EXPECT_EQ(outcome.results.size(), 6U);
  // The others compute only the 12 tokens behind two pages; three new tokens of each are read.
  EXPECT_EQ(outcome.rows, 140 + 5 * 12 + 6 * 3);
  // Rows of another task are other ones, where the gate knows tasks.
  for (std::size_t d = 0; d < prompts.size(); ++d) {
    prompts[d].task = static_cast<std::uint8_t>(d % 2);
  }
  EXPECT_EQ(run_all(rules, 100, prompts).rows, 2 * 140 + 4 * 12 + 6 * 3);
}

TEST(Scheduler, Ends) {
  GenerateRules rules{.max_tokens = 5, .max_seq = 100, .ends = {}};
  rules.batch = 8;
  rules.prefill = 500;
  const auto last_of = [&](std::int64_t tokens) {
    return run_all(rules, 10, {prompt(1, tokens)}).results.at(1);
  };
  EXPECT_EQ(last_of(10).token.size(), 5U);
  EXPECT_EQ(last_of(10).reason, record::EndReason::kMaxTokens);
  EXPECT_EQ(last_of(95).reason, record::EndReason::kMaxTokens);
  EXPECT_EQ(last_of(97).token.size(), 3U);
  EXPECT_EQ(last_of(97).reason, record::EndReason::kMaxSeq);
  rules.ends = {99, (7 + 12 * 3) % 100};
  EXPECT_EQ(last_of(10).token.size(), 3U);  // the end itself is there
  EXPECT_EQ(last_of(10).reason, record::EndReason::kEos);
}

// A stop string over the borders of three tokens, after another text that begins like it.
TEST(Scheduler, StopStrings) {
  const text::Tokenizer bytes = text::Tokenizer::bytes();
  const std::vector<std::string> stops = {"xyz", "abcd"};
  StopText text(bytes, stops, std::vector<std::int32_t>{'p'});
  std::size_t taken = 0;
  bool stopped = false;
  for (const char c : std::string("a b ababc abcd xyz")) {
    ++taken;
    stopped = text.add(c);
    if (stopped) {
      break;
    }
  }
  EXPECT_TRUE(stopped);
  EXPECT_EQ(taken, 14U);
  EXPECT_EQ(text.text(), "a b ababc ");
}

// Prompt and continuation together are the text, spaces between words and bytes of letters
// included.
TEST(Scheduler, TextsContinueTheirPrompts) {
  std::vector<std::string> texts;
  texts.reserve(200);
  for (int i = 0; i < 200; ++i) {
    texts.push_back("some words of number " + std::to_string(i * i) + " and others");
  }
  const text::Tokenizer tokenizer =
      text::Tokenizer::from_model(text::train_tokenizer(texts, 340), "trained");
  const std::string text = "some other words: \xE2\x82\xAC 12  of them";
  const std::vector<std::int32_t> tokens = tokenizer.encode(text);
  const std::vector<std::string> stops;
  for (std::size_t given = 0; given < tokens.size(); ++given) {
    const auto prompt = std::span(tokens).first(given);
    StopText rest(tokenizer, stops, prompt);
    for (const std::int32_t token : std::span(tokens).subspan(given)) {
      rest.add(token);
    }
    EXPECT_EQ(tokenizer.decode(prompt) + rest.text(), text) << given << " tokens are given";
  }
}

// A text that begins with a token of a space alone loses that one space, as it does in whole.
TEST(Scheduler, TextsThatBeginWithASpace) {
  const text::Tokenizer tokenizer =
      text::Tokenizer::load(std::string(MOESAIC_GOLDEN_DIR) + "/tokenizers/mixtral.json");
  const auto token_of = [&](const std::string& piece) {
    std::int32_t token = 0;
    while (token < tokenizer.vocab_size() && tokenizer.piece(token) != piece) {
      ++token;
    }
    return token;
  };
  const std::vector<std::int32_t> tokens = {token_of(" "), token_of(" the")};
  ASSERT_LT(std::max(tokens[0], tokens[1]), tokenizer.vocab_size());
  const std::vector<std::string> stops;
  StopText text(tokenizer, stops, {});
  for (const std::int32_t token : tokens) {
    text.add(token);
  }
  EXPECT_EQ(text.text(), tokenizer.decode(tokens));
  EXPECT_EQ(text.text(), " the");
}

// Tokens that an embedding has and a vocabulary has not become a sign for the unknown.
TEST(Scheduler, TokensOutsideOfTheVocabulary) {
  const text::Tokenizer bytes = text::Tokenizer::bytes();
  const std::vector<std::string> stops;
  StopText text(bytes, stops, std::vector<std::int32_t>{'p'});
  for (const std::int32_t token : {65, 256, 300}) {
    EXPECT_FALSE(text.add(token));
  }
  EXPECT_EQ(text.text(), "A\xEF\xBF\xBD");
}

// Micro-batches of a pipeline: all rows once and in order, also of a run that is cut.
TEST(Scheduler, CutsRunsIntoMicroBatches) {
  const GenerateRules rules{.max_tokens = 5, .max_seq = 100, .ends = {}};
  Sequence a(prompt(1, 20), rules), b(prompt(2, 3), rules), c(prompt(3, 1), rules);
  const std::vector<SequenceRun> runs = {{&a, 2, 18}, {&b, 2, 1}, {&c, 0, 1}};
  for (const std::int64_t count : {1, 2, 3, 30}) {
    std::vector<SequenceRun> joined;
    std::vector<std::int32_t> sampled;
    std::int64_t before = 0;
    const auto parts = cut_runs(runs, count);
    ASSERT_EQ(std::ssize(parts), count);
    for (const std::vector<SequenceRun>& part : parts) {
      for (const std::int32_t row : sampled_rows(part)) {
        sampled.push_back(static_cast<std::int32_t>(before) + row);
      }
      for (const SequenceRun& run : part) {
        before += run.rows;
        if (!joined.empty() && joined.back().sequence == run.sequence) {
          EXPECT_EQ(joined.back().first + joined.back().rows, run.first);
          joined.back().rows += run.rows;
        } else {
          joined.push_back(run);
        }
      }
    }
    EXPECT_EQ(sampled, (std::vector<std::int32_t>{17, 18, 19}));
    ASSERT_EQ(joined.size(), runs.size());
    for (std::size_t i = 0; i < runs.size(); ++i) {
      EXPECT_EQ(joined[i].first, runs[i].first);
      EXPECT_EQ(joined[i].rows, runs[i].rows);
    }
  }
}

}  // namespace
}  // namespace moesaic::infer
