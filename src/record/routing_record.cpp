#include "record/routing_record.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>

#include "base/io_error.h"
#include "base/log.h"
#include "base/text.h"
#include "files/columns.h"
#include "files/descriptor.h"
#include "files/disk_space.h"
#include "files/durable.h"
#include "files/format_version.h"
#include "files/hdf5/thread.h"
#include "files/problems.h"
#include "record/routing_schema.h"
#include "record/trace_schema.h"

namespace moesaic::record {
namespace {

namespace fs = std::filesystem;

/// An open file that takes bytes at their places. Without a lock, as other ranks write beside them.
class Placed {
 public:
  explicit Placed(const fs::path& file)
      : file_(file), descriptor_(::open(file.c_str(), O_WRONLY | O_CLOEXEC)) {
    if (!descriptor_.valid()) {
      files::fail_write(file_, "open", errno);
    }
  }

  void write(std::int64_t at, std::span<const std::byte> bytes) const {
    if (files::write_all_at(descriptor_, at, bytes) < 0) {
      files::fail_write(file_, "write the routing record", errno);
    }
  }

  /// Some file systems say only here that there was no room.
  void close() {
    if (descriptor_.close() != 0) {
      files::fail_write(file_, "write the routing record", errno);
    }
  }

 private:
  const fs::path& file_;
  files::Descriptor descriptor_;
};

void check_axes(const RoutingAxes& axes) {
  if (axes.moe_layers.empty() || axes.experts > std::numeric_limits<std::int16_t>::max()) {
    throw Error(Exit::kUsage,
                axes.moe_layers.empty()
                    ? "trace.routing: every layer is dense, so there is no routing; leave it empty"
                    : fmt::format("trace.routing holds numbers of at most {} experts, the model "
                                  "has {}; leave it empty",
                                  std::numeric_limits<std::int16_t>::max(), axes.experts));
  }
}

/// The names of tasks as the file holds them.
std::vector<std::string> fitting_tasks(const files::Hdf5File& file, const RoutingAxes& axes) {
  std::vector<std::string> tasks;
  tasks.reserve(axes.tasks.size());
  for (const std::string& name : axes.tasks) {
    tasks.push_back(fitting(name, file.string_width("/task")));
  }
  return tasks;
}

void check_same(const files::Hdf5File& file, const RoutingAxes& axes) {
  files::check_format(file, kRoutingSchema, kRoutingVersion);
  files::check_axis(file, "/layer", join(file.ints_attribute("/layer", "layer_index"), ","),
                    join(axes.moe_layers, ","));
  files::check_axis(file, "/choice", std::to_string(file.extents("/choice").at(0)),
                    std::to_string(axes.choices));
  files::check_axis(file, "/corpus", join(file.read_strings("/corpus"), ","),
                    join(axes.corpora, ","));
  const std::vector<std::string> before = file.read_strings("/task");
  const std::vector<std::string> tasks = fitting_tasks(file, axes);
  const std::size_t common = std::min(before.size(), tasks.size());
  const bool same = std::equal(before.begin(), before.begin() + static_cast<std::ptrdiff_t>(common),
                               tasks.begin());
  if (!same || (tasks.size() > common && !file.may_grow("/task"))) {
    files::check_axis(file, "/task", join(before, ","), join(tasks, ","));
  }
}

/// Tasks keep their numbers, and new ones come behind them.
void add_tasks(files::Hdf5File& file, const RoutingAxes& axes) {
  const std::vector<std::string> tasks = fitting_tasks(file, axes);
  const std::int64_t before = file.extents("/task").at(0);
  if (std::ssize(tasks) > before) {
    file.extend("/task", {std::ssize(tasks)});
    file.write_strings("/task", before, {tasks.begin() + before, tasks.end()});
  }
}

void start(const fs::path& file, const RoutingAxes& axes) {
  files::begin_file(file, "the routing record of another run",
                    [&](files::Hdf5File& made) { write_routing_skeleton(made, axes); });
}

/// Cuts what came after last_step, and what a kill left of a step.
void cut(files::Hdf5File& file, std::int64_t last_step) {
  const auto [steps, offsets] = read_routing_steps(file);
  const auto keep = std::min(
      std::distance(steps.begin(), std::upper_bound(steps.begin(), steps.end(), last_step)),
      std::ssize(offsets) - 1);
  if (keep < 0) {
    throw Error(Exit::kBadData, fmt::format("{}: /steps/offset is empty", file.path().string()));
  }
  file.extend("/steps/step", {keep});
  file.extend("/steps/offset", {keep + 1});
  resize_routing(file, offsets[static_cast<std::size_t>(keep)]);
}

void go_on(const fs::path& file, const RoutingAxes& axes, std::int64_t last_step) {
  try {
    files::hdf5_run([&] {
      files::Hdf5File opened = files::Hdf5File::open_patiently(file);
      check_same(opened, axes);
      add_tasks(opened, axes);
      opened.set_attribute("/", "experts", axes.experts);
      write_routing_attributes(opened, axes);
      cut(opened, last_step);
      opened.close();
    });
  } catch (const Error& error) {
    if (!files::is_damage(error)) {
      throw;
    }
    log::warn(
        fmt::format("the routing record is damaged and a new one is begun: {}", error.what()));
    start(file, axes);
  }
}

}  // namespace

double routing_step_bytes(std::int64_t moe_layers, std::int64_t choices, std::int64_t step_rows) {
  std::int64_t row = 0;
  for (const RoutingColumn& column : kRoutingColumns) {
    row += column.by_layer ? column.bytes * moe_layers * choices : column.bytes;
  }
  return static_cast<double>(row) * static_cast<double>(step_rows);
}

RoutingWriter::RoutingWriter(fs::path file, const RoutingAxes& axes,
                             const comm::Communicator& world)
    : file_(std::move(file)),
      world_(world),
      layers_(std::ssize(axes.moe_layers)),
      choices_(axes.choices) {}

// Collective.
void RoutingWriter::share_lengths() {
  std::array<std::int64_t, 3> lengths{};
  world_.together("open the routing record", [&] {
    if (world_.is_root()) {
      lengths = files::hdf5_run([&]() -> std::array<std::int64_t, 3> {
        const files::Hdf5File file = files::Hdf5File::open(file_);
        return {file.chunk("/chosen").at(0), file.extents("/steps/step").at(0),
                file.extents("/chosen").at(0)};
      });
    }
  });
  world_.broadcast(std::span<std::int64_t>(lengths), 0);
  chunk_rows_ = lengths[0];
  steps_ = lengths[1];
  rows_ = lengths[2];
}

void RoutingWriter::check(const fs::path& file, const RoutingAxes& axes,
                          const comm::Communicator& world) {
  world.together("look at the routing record", [&] {
    check_axes(axes);
    if (world.is_root() && files::is_there(file)) {
      const auto fits = files::unless_damaged([&]() -> std::optional<bool> {
        files::hdf5_run([&] { check_same(files::Hdf5File::open(file), axes); });
        return true;
      });
      static_cast<void>(fits);  // of a damaged one a new one is begun
    }
  });
}

RoutingWriter RoutingWriter::create(const fs::path& file, const RoutingAxes& axes,
                                    const comm::Communicator& world) {
  world.together("create the routing record", [&] {
    check_axes(axes);
    if (world.is_root()) {
      at_start([&] { start(file, axes); });
    }
  });
  RoutingWriter writer(file, axes, world);
  writer.share_lengths();
  return writer;
}

RoutingWriter RoutingWriter::resume(const fs::path& file, const RoutingAxes& axes,
                                    const comm::Communicator& world, std::int64_t last_step) {
  world.together("open the routing record", [&] {
    check_axes(axes);
    if (world.is_root()) {
      at_start([&] { files::is_there(file) ? go_on(file, axes, last_step) : start(file, axes); });
    }
  });
  RoutingWriter writer(file, axes, world);
  writer.share_lengths();
  return writer;
}

// Where the chunks of the new rows begin: for each column those of the rows, by layer. Collective.
std::vector<std::int64_t> RoutingWriter::make_room(std::int64_t rows) {
  std::vector<std::int64_t> places;
  world_.together("make room in the routing record", [&] {
    if (!world_.is_root()) {
      return;
    }
    const double bytes = routing_step_bytes(layers_, choices_, std::max(rows, chunk_rows_));
    files::check_room(file_, "the routing record", static_cast<std::uint64_t>(bytes));
    files::hdf5_run([&] {
      files::Hdf5File file = files::Hdf5File::open_patiently(file_);
      resize_routing(file, rows_ + rows);
      for (const RoutingColumn& column : kRoutingColumns) {
        const auto found = file.chunk_addresses(column.name, rows_, rows_ + rows);
        places.insert(places.end(), found.begin(), found.end());
      }
      file.close();
    });
  });
  std::int64_t count = std::ssize(places);
  world_.broadcast(std::span<std::int64_t>(&count, 1), 0);
  places.resize(static_cast<std::size_t>(count));
  world_.broadcast(std::span(places), 0);
  return places;
}

namespace {

/// Writes rows of one column into the chunks that hold them.
struct ColumnPlaces {
  std::span<const std::int64_t> chunks;  // [chunks, layers]
  std::int64_t layers, chunk_rows;
  std::int64_t first_chunk;  // of the step

  void write(const Placed& file, std::int64_t layer, std::int64_t first, std::int64_t rows,
             std::span<const std::byte> bytes) const {
    const auto row_bytes =
        static_cast<std::int64_t>(bytes.size()) / std::max<std::int64_t>(1, rows);
    for (std::int64_t row = first; row < first + rows;) {
      const std::int64_t chunk = row / chunk_rows;
      const std::int64_t end = std::min(first + rows, (chunk + 1) * chunk_rows);
      const std::int64_t place =
          chunks[static_cast<std::size_t>((chunk - first_chunk) * layers + layer)];
      file.write(place + (row - chunk * chunk_rows) * row_bytes,
                 bytes.subspan(static_cast<std::size_t>((row - first) * row_bytes),
                               static_cast<std::size_t>((end - row) * row_bytes)));
      row = end;
    }
  }
};

}  // namespace

void RoutingWriter::write(const RoutingPart& part, const std::vector<std::int64_t>& places,
                          std::int64_t rows) const {
  const std::int64_t first_chunk = rows_ / chunk_rows_;
  const std::int64_t chunks = (rows_ + rows - 1) / chunk_rows_ - first_chunk + 1;
  std::array<ColumnPlaces, kRoutingColumns.size()> columns{};
  std::int64_t at = 0;
  for (std::size_t c = 0; c < columns.size(); ++c) {
    const std::int64_t layers = kRoutingColumns[c].by_layer ? layers_ : 1;
    columns[c] = {std::span(places).subspan(static_cast<std::size_t>(at),
                                            static_cast<std::size_t>(chunks * layers)),
                  layers, chunk_rows_, first_chunk};
    at += chunks * layers;
  }
  Placed file(file_);
  for (const routing::RoutedRows& own : part.routed) {
    const std::int64_t count = std::ssize(own.chosen) / choices_;
    const auto put = [&](RoutingColumnIndex column, const auto& values) {
      columns[column].write(file, own.layer, rows_ + own.first, count,
                            std::as_bytes(std::span(values)));
    };
    put(kChosen, own.chosen);
    put(kWeight, own.weight);
    put(kFate, own.fate);
    put(kTarget, own.target);
  }
  for (const routing::TokenRows& own : part.tokens) {
    const auto put = [&](RoutingColumnIndex column, const auto& values) {
      columns[column].write(file, 0, rows_ + own.first, std::ssize(own.token),
                            std::as_bytes(std::span(values)));
    };
    put(kCorpus, own.corpus);
    put(kDocument, own.document);
    put(kPosition, own.position);
    put(kToken, own.token);
    put(kTask, own.task);
  }
  file.close();
}

// Collective.
void RoutingWriter::commit(std::int64_t step, std::int64_t rows) {
  world_.together("complete a step of the routing record", [&] {
    if (!world_.is_root()) {
      return;
    }
    files::hdf5_run([&] {
      files::Hdf5File file = files::Hdf5File::open_patiently(file_);
      file.extend("/steps/offset", {steps_ + 2});
      file.write<std::int64_t>("/steps/offset", {steps_ + 1}, {1},
                               std::vector<std::int64_t>{rows_ + rows});
      file.extend("/steps/step", {steps_ + 1});
      file.write<std::int64_t>("/steps/step", {steps_}, {1}, std::vector<std::int64_t>{step});
      file.close();
    });
  });
  ++steps_;
  rows_ += rows;
}

void RoutingWriter::add(std::int64_t step, std::int64_t rows, const RoutingPart& part) {
  const std::vector<std::int64_t> places = make_room(rows);
  world_.together("write the routing record", [&] { write(part, places, rows); });
  commit(step, rows);
  unsynced_ = true;
}

void RoutingWriter::sync() {
  if (!unsynced_) {
    return;
  }
  world_.together("sync the routing record", [&] { files::sync(file_); });
  unsynced_ = false;
}

}  // namespace moesaic::record
