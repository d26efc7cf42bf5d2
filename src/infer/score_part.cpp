#include "infer/score_part.h"

#include <algorithm>

#include "io/hdf5_thread.h"

namespace moesaic::infer {

ScorePart::ScorePart(const io::ScoresOutput& output, std::int64_t shard,
                     const io::ShardDocuments& documents)
    : output_(output), tally_(documents) {
  std::size_t id_width = 1;
  for (const std::string& id : documents.id) {
    id_width = std::max(id_width, id.size());
  }
  io::hdf5_run([&] {
    writer_ =
        std::make_unique<io::ScoresWriter>(output.part(shard), static_cast<std::int64_t>(id_width),
                                           !output.header().reference.empty());
  });
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

void ScorePart::finish(std::int64_t trace_step, const io::ReferenceDetails& details) {
  if (written_.valid()) {
    written_.get();
  }
  io::ScoreTotals totals = tally_.totals(output_.header().vocab_size);
  totals.reference.details = details;
  io::hdf5_run([&] {
    writer_->add_documents(tally_.documents());
    writer_->finish(output_.header(), totals, trace_step);
  });
}

}  // namespace moesaic::infer
