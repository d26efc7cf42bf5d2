#include "infer/scheduler.h"

#include <algorithm>

namespace moesaic::infer {

std::int64_t GenerateRules::most_cached(std::int64_t prompt_tokens) const {
  return std::min(prompt_tokens + max_tokens, max_seq) - 1;
}

Sequence::Sequence(data::Prompt prompt, const GenerateRules& rules) : prompt_(std::move(prompt)) {
  result_.id = prompt_.id;
  result_.prompt_tokens = std::ssize(prompt_.tokens);
  if (rules.tokenizer != nullptr) {
    text_.emplace(*rules.tokenizer, *rules.stop, prompt_.tokens);
  }
}

std::int32_t Sequence::token(std::int64_t i) const {
  const std::int64_t prompt_size = std::ssize(prompt_.tokens);
  return i < prompt_size ? prompt_.tokens[static_cast<std::size_t>(i)]
                         : result_.token[static_cast<std::size_t>(i - prompt_size)];
}

std::optional<std::string> Sequence::text() const {
  return text_ ? std::optional(text_->text()) : std::nullopt;
}

bool Sequence::accept(const Sample& sample, const GenerateRules& rules) {
  using record::EndReason;
  result_.token.push_back(sample.token);
  result_.logprob.push_back(sample.logprob);
  if (std::find(rules.ends.begin(), rules.ends.end(), sample.token) != rules.ends.end()) {
    result_.reason = EndReason::kEos;
    return true;
  }
  if (text_ && text_->add(sample.token)) {
    result_.reason = EndReason::kStop;
    return true;
  }
  const bool enough = std::ssize(result_.token) >= rules.max_tokens;
  result_.reason = enough ? EndReason::kMaxTokens : EndReason::kMaxSeq;
  return enough || tokens() >= rules.max_seq;
}

void Scheduler::add(data::Prompt prompt) {
  waiting_.push_back(std::make_unique<Sequence>(std::move(prompt), rules_));
}

// The next one that waits, if it has room.
bool Scheduler::admit() {
  if (waiting_.empty() || std::ssize(running_) >= rules_.batch) {
    return false;
  }
  Sequence& next = *waiting_.front();
  std::optional<engine::KvCache::Lease> lease =
      cache_.take({next.prompt_.tokens, next.prompt_.task},
                  rules_.most_cached(std::ssize(next.prompt_.tokens)));
  if (!lease) {
    return false;
  }
  next.lease_ = std::move(*lease);
  next.cached_ = next.lease_.known;
  running_.push_back(std::move(waiting_.front()));
  waiting_.pop_front();
  return true;
}

std::vector<SequenceRun> Scheduler::plan() {
  std::vector<SequenceRun> runs;
  std::int64_t left = rules_.prefill;
  const auto add = [&](Sequence& sequence) {
    const std::int64_t to_do = sequence.tokens() - sequence.cached_;
    const bool of_prompt = sequence.cached_ < std::ssize(sequence.prompt_.tokens);
    const std::int64_t rows = of_prompt ? std::min(to_do, left) : to_do;
    left -= of_prompt ? rows : 0;
    if (rows > 0) {
      runs.push_back({&sequence, sequence.cached_, rows});
    }
  };
  for (const auto& sequence : running_) {
    add(*sequence);
  }
  while (left > 0 && admit()) {
    add(*running_.back());
  }
  return runs;
}

std::vector<std::unique_ptr<Sequence>> Scheduler::finish(const std::vector<SequenceRun>& runs,
                                                         const std::vector<Sample>& samples) {
  std::vector<Sequence*> ended;
  std::size_t next = 0;
  for (const SequenceRun& run : runs) {
    Sequence& sequence = *run.sequence;
    const bool samples_here = run.samples();
    const auto prompt_size = std::ssize(sequence.prompt_.tokens);
    sequence.cached_ += run.rows;
    if (run.first < prompt_size && sequence.cached_ >= prompt_size) {
      cache_.publish({sequence.prompt_.tokens, sequence.prompt_.task}, sequence.lease_);
    }
    if (samples_here && sequence.accept(samples.at(next++), rules_)) {
      cache_.release(sequence.lease_);
      ended.push_back(&sequence);
    }
  }
  std::vector<std::unique_ptr<Sequence>> gone;
  for (auto& sequence : running_) {
    if (std::find(ended.begin(), ended.end(), sequence.get()) != ended.end()) {
      gone.push_back(std::move(sequence));
    }
  }
  std::erase(running_, nullptr);
  return gone;
}

std::vector<std::vector<SequenceRun>> cut_runs(const std::vector<SequenceRun>& runs,
                                               std::int64_t count) {
  std::int64_t rows = 0;
  for (const SequenceRun& run : runs) {
    rows += run.rows;
  }
  const std::int64_t most = (rows + count - 1) / count;
  std::vector<std::vector<SequenceRun>> parts(static_cast<std::size_t>(count));
  std::size_t part = 0;
  std::int64_t room = most;
  for (SequenceRun run : runs) {
    while (run.rows > 0) {
      if (room == 0) {
        ++part;
        room = most;
      }
      const std::int64_t now = std::min(run.rows, room);
      parts.at(part).push_back({run.sequence, run.first, now});
      run.first += now;
      run.rows -= now;
      room -= now;
    }
  }
  return parts;
}

data::MicroBatch to_micro_batch(const std::vector<SequenceRun>& runs) {
  data::MicroBatch batch;
  for (const SequenceRun& run : runs) {
    const Sequence& sequence = *run.sequence;
    for (std::int64_t i = run.first; i < run.first + run.rows; ++i) {
      batch.token.push_back(sequence.token(i));
      batch.position.push_back(static_cast<std::int32_t>(i));
      batch.task.push_back(sequence.prompt().task);
    }
    const std::int64_t pages = engine::KvCache::pages_for(run.first + run.rows);
    batch.runs.add(run.rows, run.first, sequence.pages().first(static_cast<std::size_t>(pages)));
  }
  batch.target.assign(batch.token.size(), -1);
  return batch;
}

std::vector<std::int32_t> sampled_rows(const std::vector<SequenceRun>& runs) {
  std::vector<std::int32_t> rows;
  std::int64_t end = 0;
  for (const SequenceRun& run : runs) {
    end += run.rows;
    if (run.samples()) {
      rows.push_back(static_cast<std::int32_t>(end - 1));
    }
  }
  return rows;
}

}  // namespace moesaic::infer
