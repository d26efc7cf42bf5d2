#include "record/trace_schema.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <numeric>

#include "base/error.h"
#include "files/columns.h"
#include "files/format_version.h"

namespace moesaic::record {
using files::describe;

const std::vector<TraceColumn<TraceRow>>& trace_columns() {
  using enum Stored;
  using Row = TraceRow;
  using Names = std::vector<std::string>;
  static const Names l{"layer"}, le{"layer", "expert"}, p{"phase"};
  static const std::vector<TraceColumn<Row>> columns{
      {"/step", {}, kI8, "1", "training step, or batch", &Row::step},
      {"/loss", {}, kF8, "nat", "loss with the auxiliary terms", &Row::loss},
      {"/lm_loss", {}, kF8, "nat", "mean cross-entropy of a counted target", &Row::lm_loss},
      {"/token_accuracy",
       {},
       kF8,
       "1",
       "share of the counted targets that are the most likely token",
       &Row::token_accuracy,
       /*newer=*/true},
      {"/entropy",
       {},
       kF8,
       "nat",
       "mean entropy of what is predicted where a target is counted",
       &Row::entropy,
       /*newer=*/true},
      {"/grad_norm", {}, kF8, "1", "L2 norm of the gradient before clipping", &Row::grad_norm},
      {"/lr", {}, kF8, "1", "learning rate", &Row::lr},
      {"/tokens", {}, kI8, "token", "routed positions", &Row::tokens},
      {"/targets", {}, kI8, "token", "counted targets", &Row::targets},
      {"/seconds", {}, kF8, "s", "wall time of the step", &Row::seconds},
      {"/unix_time", {}, kF8, "s", "Unix time at the end of the step", &Row::unix_time},
      {"/peak_memory", {}, kI8, "byte", "peak memory, maximum over ranks", &Row::peak_memory},
      {"/aux_loss", l, kF4, "1", "balance loss, 1 when balanced", &Row::aux_loss},
      {"/z_loss", l, kF4, "1", "mean squared logsumexp of the router", &Row::z_loss},
      {"/gate_entropy", l, kF4, "nat", "mean entropy of the router's scores", &Row::gate_entropy},
      {"/load_max_over_mean", l, kF4, "1", "largest load over the mean load of an expert",
       &Row::load_max_over_mean},
      {"/utilisation", l, kF4, "1", "filled share of the expert slots", &Row::utilisation},
      {"/expert_tokens", le, kI4, "token", "choices of the router, before capacity",
       &Row::expert_tokens},
      {"/expert_dropped", le, kI4, "token", "dropped choices, at the chosen expert",
       &Row::expert_dropped},
      {"/expert_rerouted", le, kI4, "token", "re-routed choices, at the chosen expert",
       &Row::expert_rerouted},
      {"/expert_processed", le, kI4, "token", "computed choices, at the computing expert",
       &Row::expert_processed},
      {"/expert_slots", le, kI4, "token", "slots over the micro-batches", &Row::expert_slots},
      {"/expert_state", le, kU1, "1", "0 absent, 1 regular, 2 spare, 3 retired",
       &Row::expert_state},
      {"/task_expert_tokens",
       {"layer", "task", "expert"},
       kI4,
       "token",
       "choices of the router by task",
       &Row::task_expert_tokens},
      {"/task_choice_tokens",
       {"layer", "task", "choice"},
       kI4,
       "token",
       "tokens by task that chose so many experts",
       &Row::task_choice_tokens},
      {"/task_tokens", {"task"}, kI8, "token", "routed positions by task", &Row::task_tokens},
      {"/time", p, kF8, "s", "time by phase of the slowest rank", &Row::time},
      {"/time_mean", p, kF8, "s", "time by phase, mean over ranks", &Row::time_mean},
      {"/traffic",
       {"group"},
       kF8,
       "byte",
       "tensors sent in a group, sum over ranks",
       &Row::traffic},
      {"/bubble",
       {},
       kF8,
       "1",
       "share of the step that ranks wait for the next or last stage",
       &Row::bubble},
      {"/rank_seconds", {"rank"}, kF4, "s", "time of a rank outside waiting", &Row::rank_seconds},
  };
  return columns;
}

const std::vector<TraceColumn<EvalRow>>& eval_columns() {
  using enum Stored;
  using Row = EvalRow;
  static const std::vector<TraceColumn<Row>> columns{
      {"/eval/step", {}, kI8, "1", "training step of the evaluation", &Row::step},
      {"/eval/loss", {}, kF8, "nat", "mean cross-entropy of a held-out target", &Row::loss},
      {"/eval/bits_per_byte", {}, kF8, "1", "held-out bits per byte of text", &Row::bits_per_byte},
      {"/eval/loss_by_task", {"task"}, kF8, "nat", "held-out loss by task", &Row::loss_by_task},
      {"/eval/loss_by_corpus",
       {"corpus"},
       kF8,
       "nat",
       "held-out loss by corpus",
       &Row::loss_by_corpus},
  };
  return columns;
}

std::int64_t extent_of(const TraceAxes& axes, const std::string& axis) {
  const std::map<std::string, std::size_t> extents{
      {"layer", axes.moe_layers.size()},
      {"expert", static_cast<std::size_t>(axes.experts)},
      {"choice", static_cast<std::size_t>(axes.choices)},
      {"phase", axes.phases.size()},
      {"task", axes.tasks.size()},
      {"corpus", axes.corpora.size()},
      {"group", axes.groups.size()},
      {"rank", static_cast<std::size_t>(axes.ranks)}};
  return static_cast<std::int64_t>(extents.at(axis));
}

bool is_numbered(const std::string& axis) { return axis == "rank" || axis == "expert"; }
bool is_named(const std::string& axis) { return axis == "task" || axis == "corpus"; }

const std::vector<std::string>& names_of(const TraceAxes& axes, const std::string& axis) {
  return axis == "task" ? axes.tasks : axes.corpora;
}

std::string fitting(std::string text, std::int64_t most) {
  const auto bytes = static_cast<std::size_t>(most);
  if (text.size() > bytes) {
    std::size_t end = bytes - 3;
    while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80U) {
      --end;
    }
    text.replace(end, std::string::npos, "...");
  }
  return text;
}

void write_names(files::Hdf5File& file, const std::string& name,
                 const std::vector<std::string>& values) {
  constexpr std::int64_t kNameBytes = 256;
  file.create_strings(name, kNameBytes, {.chunk = {16}, .unlimited = true});
  std::vector<std::string> cut;
  cut.reserve(values.size());
  for (const std::string& value : values) {
    cut.push_back(fitting(value, kNameBytes));
  }
  file.extend(name, {std::ssize(cut)});
  file.write_strings(name, 0, cut);
}

namespace {

/// Chunks of about 32 KiB along the first axis. No filter: a chunk that grows stays in its place,
/// and a write that a kill tore leaves a readable file.
files::Hdf5File::Layout layout_of(const files::Extents& extents, std::int64_t element) {
  constexpr std::int64_t kChunkBytes = 32768;
  std::int64_t row = element;
  files::Hdf5File::Layout layout;
  layout.chunk = extents;
  for (std::size_t i = 1; i < extents.size(); ++i) {
    row *= extents[i];
  }
  layout.chunk[0] = std::clamp<std::int64_t>(kChunkBytes / row, 1, 1024);
  layout.unlimited = true;
  return layout;
}

void create_column(files::Hdf5File& file, const std::string& name, Stored stored,
                   const files::Extents& extents, bool all_unlimited) {
  files::Hdf5File::Layout layout = layout_of(extents, stored == Stored::kU1 ? 1 : 8);
  layout.all_unlimited = all_unlimited;
  switch (stored) {
    case Stored::kF8:
      return file.create_dataset<double>(name, extents, layout);
    case Stored::kF4:
      return file.create_dataset<float>(name, extents, layout);
    case Stored::kI8:
      return file.create_dataset<std::int64_t>(name, extents, layout);
    case Stored::kI4:
      return file.create_dataset<std::int32_t>(name, extents, layout);
    case Stored::kU1:
      return file.create_dataset<std::uint8_t>(name, extents, layout);
  }
}

/// The rows of /eval or /events: an axis without values, in the form of netCDF. With one name for
/// axes of different lengths, xarray could not open all groups together.
void create_row_axis(files::Hdf5File& file, const std::string& axis, const std::string& long_name) {
  create_column(file, axis, Stored::kI8, {0}, false);
  describe(file, axis, "1", long_name);
  file.make_scale(axis,
                  fmt::format("This is a netCDF dimension but not a netCDF variable.{:10}", 0));
}

/// `rows` is the scale of the first axis: the first column itself, or one that is there.
template <class Row>
void create_columns(files::Hdf5File& file, const std::vector<TraceColumn<Row>>& columns,
                    const TraceAxes& axes, const std::string& rows) {
  for (const TraceColumn<Row>& column : columns) {
    files::Extents extents{0};
    for (const std::string& axis : column.axes) {
      extents.push_back(extent_of(axes, axis));
    }
    if (std::find(extents.begin() + 1, extents.end(), 0) != extents.end()) {
      continue;  // a model without experts has no rows of them
    }
    create_column(file, column.name, column.stored, extents, column.grows());
    describe(file, column.name, column.units, column.long_name);
    if (column.name == rows) {
      file.make_scale(rows, "step");
      continue;
    }
    file.attach_scale(column.name, rows, 0);
    for (std::size_t i = 0; i < column.axes.size(); ++i) {
      file.attach_scale(column.name, "/" + column.axes[i], static_cast<int>(i) + 1);
    }
  }
}

void write_indices(files::Hdf5File& file, const std::string& name, std::int64_t extent) {
  files::Hdf5File::Layout layout;
  layout.chunk = {1024};
  layout.unlimited = true;
  file.create_dataset<std::int64_t>(name, {extent}, layout);  // a restart may have more
  std::vector<std::int64_t> values(static_cast<std::size_t>(extent));
  std::iota(values.begin(), values.end(), 0);
  file.write<std::int64_t>(name, {0}, {extent}, values);
}

void write_scales(files::Hdf5File& file, const TraceAxes& axes) {
  file.write_all<std::int64_t>("/layer", {extent_of(axes, "layer")}, axes.moe_layers);
  file.set_attribute("/layer", "layer_index", axes.moe_layers);
  write_indices(file, "/expert", axes.experts);
  write_indices(file, "/rank", axes.ranks);
  std::vector<std::int64_t> choices(static_cast<std::size_t>(axes.choices));
  std::iota(choices.begin(), choices.end(), 1);
  file.write_all<std::int64_t>("/choice", {axes.choices}, choices);
  file.write_strings("/phase", axes.phases);
  write_names(file, "/task", axes.tasks);
  write_names(file, "/corpus", axes.corpora);
  file.write_strings("/group", axes.groups);
  describe(file, "/layer", "1", "index in the model of each MoE layer");
  describe(file, "/expert", "1", "number of an expert");
  describe(file, "/choice", "1", "experts that a token chose");
  describe(file, "/rank", "1", "MPI rank");
  describe(file, "/phase", "1", "phase of a step");
  describe(file, "/task", "1", "task of a token");
  describe(file, "/corpus", "1", "corpus");
  describe(file, "/group", "1", "group of ranks");
  for (const char* axis :
       {"layer", "expert", "choice", "rank", "phase", "task", "corpus", "group"}) {
    file.make_scale("/" + std::string(axis), axis);
  }
}

void create_events(files::Hdf5File& file) {
  create_row_axis(file, "/events/event", "an event");
  create_column(file, "/events/step", Stored::kI8, {0}, false);
  file.attach_scale("/events/step", "/events/event", 0);
  describe(file, "/events/step", "1", "step of the event");
  const std::pair<const char*, std::int64_t> texts[] = {{"/events/kind", 32},
                                                        {"/events/message", kMessageBytes}};
  for (const auto& [name, width] : texts) {
    file.create_strings(name, width, {.chunk = {64}, .unlimited = true});
    file.attach_scale(name, "/events/event", 0);
  }
  describe(file, "/events/kind", "1", "kind of the event");
  describe(file, "/events/message", "1", "what happened");
}

}  // namespace

double trace_bytes(const TraceAxes& axes, std::int64_t rows) {
  constexpr double kSkeleton = 262144.0;  // scales, attributes, events, and the index of chunks
  double bytes = kSkeleton;
  for (const TraceColumn<TraceRow>& column : trace_columns()) {
    const bool wide = column.stored == Stored::kF8 || column.stored == Stored::kI8;
    double row = column.stored == Stored::kU1 ? 1.0 : wide ? 8.0 : 4.0;
    for (const std::string& axis : column.axes) {
      row *= static_cast<double>(extent_of(axes, axis));
    }
    constexpr double kFirstChunk = 32768.0;
    bytes += std::max(row * static_cast<double>(rows), row > 0.0 ? kFirstChunk : 0.0);
  }
  return bytes;
}

void add_newer_columns(files::Hdf5File& file, const TraceAxes& axes) {
  const std::int64_t rows = file.extents("/step").at(0);
  for (const TraceColumn<TraceRow>& column : trace_columns()) {
    if (column.newer && !file.has(column.name)) {
      create_columns<TraceRow>(file, {column}, axes, "/step");
      files::Extents extents = file.extents(column.name);
      extents[0] = rows;
      file.extend(column.name, extents);
    }
  }
}

void write_trace_attributes(files::Hdf5File& file, const TraceAxes& axes) {
  for (const auto& [name, value] : axes.attributes) {
    file.set_attribute("/", name, value);
  }
  for (const auto& [name, values] : axes.numbers) {
    file.set_attribute("/", name, values);
  }
}

void write_trace_skeleton(files::Hdf5File& file, const TraceAxes& axes) {
  file.set_attribute("/", "Conventions", std::string("CF-1.8"));
  files::write_format(file, kTraceSchema, kTraceVersion);
  write_trace_attributes(file, axes);
  write_scales(file, axes);
  create_columns(file, trace_columns(), axes, "/step");
  create_row_axis(file, "/eval/evaluation", "an evaluation");
  create_columns(file, eval_columns(), axes, "/eval/evaluation");
  create_events(file);
}

}  // namespace moesaic::record
