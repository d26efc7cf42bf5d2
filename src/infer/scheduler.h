#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "data/micro_batch.h"
#include "data/prompts.h"
#include "engine/kv_cache.h"
#include "infer/sampler.h"
#include "infer/stop_text.h"
#include "record/generations.h"

// What a replica of the model computes next. Every rank of a replica decides it for itself, alike,
// without a message: it follows from the prompts and the tokens that were chosen.
namespace moesaic::infer {

/// When continuations end, and how many are computed at once.
struct GenerateRules {
  std::int64_t max_tokens = 128, max_seq = 0;
  std::vector<std::int32_t> ends;              // tokens that end a continuation
  const text::Tokenizer* tokenizer = nullptr;  // absent: no texts
  const std::vector<std::string>* stop = nullptr;
  std::int64_t batch = 1;    // sequences
  std::int64_t prefill = 1;  // tokens of prompts in an iteration

  /// Tokens of which the cache holds keys and values at most: the last one is never read.
  std::int64_t most_cached(std::int64_t prompt_tokens) const;
};

/// A prompt and what has been made of it.
class Sequence {
 public:
  Sequence(data::Prompt prompt, const GenerateRules& rules);

  const data::Prompt& prompt() const { return prompt_; }
  std::int64_t tokens() const { return std::ssize(prompt_.tokens) + std::ssize(result_.token); }
  std::int32_t token(std::int64_t i) const;
  std::int64_t cached() const { return cached_; }  // of the first tokens
  std::span<const std::int32_t> pages() const { return lease_.pages; }
  const record::Continuation& result() const { return result_; }
  /// Nothing without a tokenizer.
  std::optional<std::string> text() const;

 private:
  friend class Scheduler;
  /// True: it has ended.
  bool accept(const Sample& sample, const GenerateRules& rules);

  data::Prompt prompt_;
  engine::KvCache::Lease lease_;
  std::int64_t cached_ = 0;
  record::Continuation result_;
  std::optional<StopText> text_;
};

/// Tokens [first, first + rows) of a sequence, to be computed.
struct SequenceRun {
  Sequence* sequence;
  std::int64_t first, rows;

  /// Whether a new token follows from its last row.
  bool samples() const { return first + rows == sequence->tokens(); }
};

/// Continuous batching (Yu et al. 2022): an iteration computes the newest token of every running
/// sequence and, in pieces, the prompts of those that have joined; one that has ended makes room at
/// once. A sequence joins, in the order of the prompts, when its longest continuation has its
/// pages, so that none ever has to wait for another.
class Scheduler {
 public:
  /// rules must outlive it.
  Scheduler(const GenerateRules& rules, std::int64_t pages) : rules_(rules), cache_(pages) {}

  void add(data::Prompt prompt);
  /// Whether more prompts could be put to use now.
  bool has_capacity() const { return std::ssize(waiting_) < rules_.batch - std::ssize(running_); }
  bool is_idle() const { return waiting_.empty() && running_.empty(); }

  std::vector<SequenceRun> plan();
  /// An iteration is done; one sample for each of its runs that samples. Returns the sequences that
  /// have ended.
  std::vector<std::unique_ptr<Sequence>> finish(const std::vector<SequenceRun>& runs,
                                                const std::vector<Sample>& samples);

 private:
  bool admit();

  const GenerateRules& rules_;
  engine::KvCache cache_;
  std::deque<std::unique_ptr<Sequence>> waiting_;
  std::vector<std::unique_ptr<Sequence>> running_;  // in the order in which they joined
};

/// The runs in order, as `count` micro-batches of about as many rows; a run may be cut.
std::vector<std::vector<SequenceRun>> cut_runs(const std::vector<SequenceRun>& runs,
                                               std::int64_t count);
data::MicroBatch to_micro_batch(const std::vector<SequenceRun>& runs);
/// The rows of these runs, laid one after the other, that samples follow from.
std::vector<std::int32_t> sampled_rows(const std::vector<SequenceRun>& runs);

}  // namespace moesaic::infer
