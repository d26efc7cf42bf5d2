#include "infer/score_part.h"

#include <algorithm>

#include "io/hdf5_thread.h"

namespace moesaic::infer {

ScorePart::ScorePart(const io::ScoresOutput& output, std::int64_t shard,
                     const io::ShardDocuments& documents, std::int64_t windows)
    : output_(output), shard_(shard), windows_(windows), tally_(documents) {
  std::size_t id_width = 1;
  for (const std::string& id : documents.id) {
    id_width = std::max(id_width, id.size());
  }
  io::hdf5_run([&] {
    writer_ =
        std::make_unique<io::ScoresWriter>(output.part(shard), static_cast<std::int64_t>(id_width),
                                           !output.header().reference.empty());
    go_on();
  });
}

// On the HDF5 thread: takes over what an earlier job kept, if it cut the shard into such batches.
void ScorePart::go_on() {
  const std::filesystem::path file = output_.begun(shard_);
  const std::optional<io::ScoresSummary> summary = io::read_scores_summary(file);
  if (!summary || summary->header.fingerprint != output_.header().fingerprint) {
    return;
  }
  const auto opened = io::Hdf5File::open(file);
  const io::BegunScores begun = io::read_begun(opened);
  if (begun.windows == windows_) {
    writer_->copy_tokens(opened);
    tally_.restore(io::read_document_scores(opened), summary->totals.reference);
    kept_ = begun.batches;
    kept_details_ = summary->totals.reference.details;
  }
}

ScorePart::~ScorePart() {
  io::hdf5_run([this] { writer_.reset(); });
}

void ScorePart::add(const WindowBatch& windows, io::TokenScores tokens,
                    std::span<const std::uint8_t> likeliest) {
  tally_.add(windows, tokens, likeliest);
  if (written_.valid()) {
    written_.get();  // what it threw
  }
  written_ = io::hdf5_async(
      [writer = writer_.get(), values = std::move(tokens)] { writer->add_tokens(values); });
}

io::ScoreTotals ScorePart::end(const io::ReferenceDetails& details) {
  if (written_.valid()) {
    written_.get();
  }
  io::ScoreTotals totals = tally_.totals(output_.header().vocab_size);
  totals.reference.details = kept_details_;
  totals.reference.details.add(details);
  return totals;
}

void ScorePart::finish(std::int64_t trace_step, const io::ReferenceDetails& details) {
  const io::ScoreTotals totals = end(details);
  io::hdf5_run([&] {
    writer_->add_documents(tally_.documents());
    writer_->finish(output_.header(), totals, trace_step);
  });
  std::error_code none;
  std::filesystem::remove(output_.begun(shard_), none);
}

void ScorePart::keep(std::int64_t batches, std::int64_t trace_step,
                     const io::ReferenceDetails& details) {
  const io::ScoreTotals totals = end(details);
  io::hdf5_run([&] {
    writer_->add_documents(tally_.documents());
    writer_->keep(output_.begun(shard_), output_.header(), totals, trace_step, {batches, windows_});
  });
}

}  // namespace moesaic::infer
