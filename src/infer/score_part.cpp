#include "infer/score_part.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/log.h"
#include "files/durable.h"
#include "files/hdf5/async.h"
#include "files/hdf5/thread.h"
#include "files/problems.h"

namespace moesaic::infer {
namespace {

std::int64_t targets_of_first(std::int64_t count, const std::vector<data::WindowBatch>& batches) {
  std::int64_t targets = 0;
  for (std::int64_t j = 0; j < std::min<std::int64_t>(count, std::ssize(batches)); ++j) {
    for (const data::Window& window : batches[static_cast<std::size_t>(j)]) {
      targets += window.targets();
    }
  }
  return targets;
}

}  // namespace

ScorePart::ScorePart(const record::ScoresOutput& output, std::int64_t shard,
                     const data::ShardDocuments& documents,
                     const std::vector<data::WindowBatch>& batches)
    : output_(output), shard_(shard), tally_(documents) {
  files::hdf5_run([&] {
    make_writer(documents);
    go_on(documents, batches);
  });
}

// On the HDF5 thread: takes over what an earlier job kept, if it cut the shard into such batches.
void ScorePart::go_on(const data::ShardDocuments& documents,
                      const std::vector<data::WindowBatch>& batches) {
  const std::filesystem::path file = output_.begun(shard_);
  const bool taken =
      files::unless_damaged([&] { return std::optional(take_over(file, batches)); }).has_value();
  if (!taken) {
    log::warn(fmt::format("{} is damaged: the shard is scored from its start", file.string()));
    tally_ = Tally(documents);
    make_writer(documents);
  }
}

bool ScorePart::take_over(const std::filesystem::path& file,
                          const std::vector<data::WindowBatch>& batches) {
  if (!files::is_there(file)) {
    return false;
  }
  const auto opened = files::Hdf5File::open(file);
  const record::ScoresSummary summary = record::scores_summary(opened);
  const record::BegunScores begun = record::read_begun(opened);
  if (summary.header.fingerprint != output_.header().fingerprint ||
      begun.windows != output_.header().windows ||
      summary.totals.tokens != targets_of_first(begun.batches, batches)) {
    return false;
  }
  writer_->copy_tokens(opened);
  tally_.restore(record::read_document_scores(opened), summary.totals.reference);
  kept_ = begun.batches;
  kept_details_ = summary.totals.reference.details;
  return true;
}

void ScorePart::make_writer(const data::ShardDocuments& documents) {
  std::size_t id_width = 1;
  for (const std::string& id : documents.id) {
    id_width = std::max(id_width, id.size());
  }
  writer_.reset();
  writer_ = std::make_unique<record::ScoresWriter>(output_.part(shard_),
                                                   static_cast<std::int64_t>(id_width),
                                                   !output_.header().reference.empty());
}

ScorePart::~ScorePart() {
  files::hdf5_run([this] { writer_.reset(); });
}

void ScorePart::add(const data::WindowBatch& windows, record::TokenScores tokens,
                    std::span<const std::uint8_t> is_argmax) {
  tally_.add(windows, tokens, is_argmax);
  if (written_.valid()) {
    written_.get();  // what it threw
  }
  written_ = files::hdf5_async(
      [writer = writer_.get(), values = std::move(tokens)] { writer->add_tokens(values); });
}

record::ScoreTotals ScorePart::end(const record::ReferenceDetails& details) {
  if (written_.valid()) {
    written_.get();
  }
  record::ScoreTotals totals = tally_.totals(output_.header().vocab_size);
  totals.reference.details = kept_details_;
  totals.reference.details.add(details);
  return totals;
}

void ScorePart::finish(std::int64_t trace_step, const record::ReferenceDetails& details) {
  const record::ScoreTotals totals = end(details);
  files::hdf5_run([&] {
    writer_->add_documents(tally_.documents());
    writer_->finish(output_.header(), totals, trace_step);
  });
  std::error_code none;
  std::filesystem::remove(output_.begun(shard_), none);
}

void ScorePart::keep(std::int64_t batches, std::int64_t trace_step,
                     const record::ReferenceDetails& details) {
  const record::ScoreTotals totals = end(details);
  files::hdf5_run([&] {
    writer_->add_documents(tally_.documents());
    writer_->keep(output_.begun(shard_), output_.header(), totals, trace_step,
                  {batches, output_.header().windows});
  });
}

}  // namespace moesaic::infer
