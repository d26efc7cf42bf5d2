#include "record/trace.h"

#include <fmt/format.h>

#include "base/error.h"
#include "base/log.h"
#include "base/timer.h"
#include "files/columns.h"
#include "files/disk_space.h"
#include "files/durable.h"
#include "files/format_version.h"
#include "files/hdf5/file.h"
#include "files/hdf5/thread.h"
#include "record/trace_append.h"
#include "record/trace_schema.h"

namespace moesaic::record {
namespace {

namespace fs = std::filesystem;

}  // namespace

struct TraceWriter::State {
  fs::path path;
  double flush_seconds = 10.0;
  Timer since_flush;
  TracePending pending;
  TraceLengths written;
  TracePositions positions;

  void write(std::optional<files::Hdf5File> file);
  void restore() const;
};

// As far as the disk lets it: otherwise the next start does it.
void TraceWriter::State::restore() const {
  try {
    files::Hdf5File file = files::Hdf5File::open_patiently(path);
    cut_back(file, written);
    file.close();
  } catch (const Error& error) {
    log::debug(error.what());
  }
}

// On the HDF5 thread. If it fails half-way, the file is left as it was.
void TraceWriter::State::write(std::optional<files::Hdf5File> file) {
  try {
    append(*file, pending, written, positions);
    file->close();
  } catch (const Error&) {
    file.reset();
    restore();
    throw;
  }
  written.rows += static_cast<std::int64_t>(pending.rows.size());
  written.evals += static_cast<std::int64_t>(pending.evals.size());
  written.events += static_cast<std::int64_t>(pending.events.size());
  pending = {};
}

TraceWriter::TraceWriter(std::unique_ptr<State> state) : state_(std::move(state)) {}
TraceWriter::TraceWriter(TraceWriter&&) noexcept = default;
TraceWriter& TraceWriter::operator=(TraceWriter&&) noexcept = default;

TraceWriter::~TraceWriter() {
  if (state_ == nullptr) {
    return;
  }
  try {
    flush();  // an error is on its way: what led to it is worth keeping
  } catch (const std::exception& error) {
    log::warn(error.what());
  }
}

TraceWriter TraceWriter::create(const fs::path& file, const TraceAxes& axes, double flush_seconds) {
  files::begin_file(file, "an older trace",
                    [&](files::Hdf5File& made) { write_trace_skeleton(made, axes); });
  auto state = std::make_unique<State>();
  state->path = file;
  state->flush_seconds = flush_seconds;
  state->positions = positions_of(axes);
  return TraceWriter(std::move(state));
}

TraceWriter TraceWriter::resume(const fs::path& file, const TraceAxes& axes, double flush_seconds,
                                std::int64_t last_step) {
  if (!files::is_there(file)) {
    return create(file, axes, flush_seconds);
  }
  auto state = std::make_unique<State>();
  state->path = file;
  state->flush_seconds = flush_seconds;
  ContinuedTrace continued;
  try {
    files::hdf5_run([&] {
      files::Hdf5File opened = files::Hdf5File::open_patiently(file);
      files::check_format(opened, kTraceSchema, kTraceVersion);
      continued = continue_trace(opened, axes, last_step);
      opened.close();
    });
  } catch (const Error& error) {
    if (!files::is_damage(error)) {
      throw;
    }
    log::warn(fmt::format("the trace is damaged and a new one is begun: {}", error.what()));
    return create(file, axes, flush_seconds);
  }
  state->written = continued.lengths;
  state->positions = continued.positions;
  TraceWriter writer(std::move(state));
  std::string restart = fmt::format("resumed from step {}", last_step);
  if (continued.cut_to > 0) {
    const std::string lost =
        last_step + 1 == continued.cut_to
            ? fmt::format("step {} was not saved and is computed again", continued.cut_to)
            : fmt::format("steps {} to {} were not saved and are computed again", last_step + 1,
                          continued.cut_to);
    log::warn(lost);
    restart += "; " + lost;
  }
  writer.event(last_step, "restart", restart);
  if (continued.lacks_steps) {
    writer.event(last_step, kTraceGap,
                 fmt::format("of steps {} to {} there is no row: the trace could not be written",
                             continued.ends_at + 1, last_step));
  }
  return writer;
}

void TraceWriter::add(const TraceRow& row) {
  state_->pending.rows.push_back(row);
  if (state_->since_flush.seconds() >= state_->flush_seconds) {
    flush();
  }
}

void TraceWriter::add(const EvalRow& row) { state_->pending.evals.push_back(row); }

void TraceWriter::event(std::int64_t step, const std::string& kind, const std::string& message) {
  state_->pending.events.push_back({step, kind, message});
}

bool TraceWriter::flush() {
  state_->since_flush.restart();
  if (state_->pending.empty()) {
    return true;
  }
  files::check_room(state_->path, "the trace", state_->pending.bytes());
  return files::hdf5_run([this] {
    std::optional<files::Hdf5File> file = files::Hdf5File::open_unless_locked(state_->path);
    const bool opened = file.has_value();
    if (opened) {
      state_->write(std::move(file));
    }
    return opened;
  });
}

void TraceWriter::write_all() {
  if (state_->pending.empty()) {
    return;
  }
  files::check_room(state_->path, "the trace", state_->pending.bytes());
  files::hdf5_run([this] { state_->write(files::Hdf5File::open_patiently(state_->path)); });
}

}  // namespace moesaic::record
