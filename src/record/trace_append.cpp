#include "record/trace_append.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <limits>

#include "base/error.h"
#include "base/text.h"
#include "files/columns.h"
#include "record/trace_schema.h"

namespace moesaic::record {
namespace {

std::vector<std::string> event_columns() {
  return {"/events/step", "/events/kind", "/events/message"};
}

constexpr std::size_t kNowhere = std::numeric_limits<std::size_t>::max();

/// Where each value of a row lies in a line of the file, row-major both; kNowhere: it has no place.
std::vector<std::size_t> targets_of(const std::vector<std::string>& axes,
                                    const files::Extents& extents,
                                    const TracePositions& positions) {
  std::vector<std::size_t> targets = {0};
  for (std::size_t i = 0; i < axes.size(); ++i) {
    const auto width = static_cast<std::size_t>(extents[i + 1]);
    const auto own = static_cast<std::size_t>(positions.extents.at(axes[i]));
    const auto names = positions.positions.find(axes[i]);
    std::vector<std::size_t> next;
    next.reserve(targets.size() * own);
    for (const std::size_t begin : targets) {
      for (std::size_t j = 0; j < own; ++j) {
        const std::int64_t position =
            names == positions.positions.end() ? static_cast<std::int64_t>(j) : names->second.at(j);
        next.push_back(begin == kNowhere || position < 0
                           ? kNowhere
                           : begin * width + static_cast<std::size_t>(position));
      }
    }
    targets = std::move(next);
  }
  return targets;
}

/// The values of one column in all rows. Where the trace has more of an axis than this run, there
/// are NaN (or 0).
template <class T, class Row, class Member>
std::vector<T> gather(const std::vector<Row>& rows, Member member, const files::Extents& extents,
                      const TraceColumn<Row>& column, const TracePositions& positions) {
  std::size_t line = 1;
  for (std::size_t i = 1; i < extents.size(); ++i) {
    line *= static_cast<std::size_t>(extents[i]);
  }
  std::vector<T> values(rows.size() * line, std::numeric_limits<T>::quiet_NaN());
  auto into = values.begin();
  if constexpr (std::is_same_v<Member, T Row::*>) {
    for (const Row& row : rows) {
      *into++ = row.*member;
    }
  } else {
    const std::vector<std::size_t> targets = targets_of(column.axes, extents, positions);
    for (const Row& row : rows) {
      const std::vector<T>& part = row.*member;
      require(part.size() == targets.size(), fmt::format("trace row: {} has {} values, not {}",
                                                         column.name, part.size(), targets.size()));
      for (std::size_t i = 0; i < part.size(); ++i) {
        if (targets[i] != kNowhere) {
          into[static_cast<std::ptrdiff_t>(targets[i])] = part[i];
        }
      }
      into += static_cast<std::ptrdiff_t>(line);
    }
  }
  return values;
}

/// Writes the rows at `first` (again, if an earlier try failed half-way).
template <class Row>
void write_rows(files::Hdf5File& file, const std::vector<TraceColumn<Row>>& columns,
                const std::vector<Row>& rows, std::int64_t first, const TracePositions& positions) {
  const auto count = static_cast<std::int64_t>(rows.size());
  for (const TraceColumn<Row>& column : columns) {
    if (rows.empty() || !file.has(column.name)) {
      continue;
    }
    files::Extents extents = file.extents(column.name);
    extents[0] = first + count;
    file.extend(column.name, extents);
    files::Extents offset(extents.size(), 0);
    offset[0] = first;
    extents[0] = count;
    std::visit(
        [&](auto member) {
          constexpr bool kFloating = std::is_same_v<decltype(member), double Row::*> ||
                                     std::is_same_v<decltype(member), std::vector<double> Row::*>;
          using T = std::conditional_t<kFloating, double, std::int64_t>;
          const auto values = gather<T>(rows, member, extents, column, positions);
          file.write<T>(column.name, offset, extents, values);
        },
        column.member);
  }
}

void write_events(files::Hdf5File& file, const std::vector<TraceEvent>& events,
                  std::int64_t first) {
  std::vector<std::int64_t> steps;
  std::vector<std::string> kinds, messages;
  for (const TraceEvent& event : events) {
    steps.push_back(event.step);
    kinds.push_back(event.kind);
    messages.push_back(fitting(event.message, kMessageBytes));  // the log has all of it
  }
  const auto count = static_cast<std::int64_t>(events.size());
  for (const std::string& name : event_columns()) {
    file.extend(name, {first + count});
  }
  file.write<std::int64_t>("/events/step", {first}, {count}, steps);
  file.write_strings("/events/kind", first, kinds);
  file.write_strings("/events/message", first, messages);
}

/// Cuts the arrays after the last row whose step is at most last_step, and after the shortest of
/// them (a kill may have left some longer). Returns the rows that stay.
std::int64_t cut(files::Hdf5File& file, const std::vector<std::string>& names,
                 std::int64_t last_step) {
  const auto steps = file.read_all<std::int64_t>(names.front());
  std::int64_t keep = std::distance(
      steps.begin(), std::find_if(steps.begin(), steps.end(),
                                  [last_step](std::int64_t step) { return step > last_step; }));
  for (const std::string& name : names) {
    keep = std::min(keep, file.extents(name).at(0));
  }
  for (const std::string& name : names) {
    files::Extents extents = file.extents(name);
    extents[0] = keep;
    file.extend(name, extents);
  }
  return keep;
}

template <class Row>
std::vector<std::string> names_in(const files::Hdf5File& file,
                                  const std::vector<TraceColumn<Row>>& columns) {
  std::vector<std::string> names;
  for (const TraceColumn<Row>& column : columns) {
    if (file.has(column.name)) {
      names.push_back(column.name);
    }
  }
  return names;
}

void check_axes(const files::Hdf5File& file, const TraceAxes& axes) {
  files::check_axis(file, "/layer", join(file.ints_attribute("/layer", "layer_index"), ","),
                    join(axes.moe_layers, ","));
  files::check_axis(file, "/expert", file.extents("/expert").at(0) > 0 ? "some" : "none",
                    axes.experts > 0 ? "some" : "none");
  files::check_axis(file, "/phase", join(file.read_strings("/phase"), ","), join(axes.phases, ","));
}

/// An axis of a file of this many entries, and every column that has it. Earlier rows have NaN (or
/// 0) there.
template <class Row>
void extend_columns(files::Hdf5File& file, const std::vector<TraceColumn<Row>>& columns,
                    const std::string& axis, std::int64_t extent) {
  for (const TraceColumn<Row>& column : columns) {
    if (!file.has(column.name)) {
      continue;
    }
    files::Extents extents = file.extents(column.name);
    for (std::size_t i = 0; i < column.axes.size(); ++i) {
      extents[i + 1] = column.axes[i] == axis ? extent : extents[i + 1];
    }
    file.extend(column.name, extents);
  }
}

void widen(files::Hdf5File& file, const std::string& axis, std::int64_t extent) {
  extend_columns(file, trace_columns(), axis, extent);
  extend_columns(file, eval_columns(), axis, extent);
  file.extend("/" + axis, {extent});
}

/// Room for the ranks or experts of this run.
void widen_numbers(files::Hdf5File& file, const std::string& axis, std::int64_t extent) {
  const std::int64_t before = file.extents("/" + axis).at(0);
  if (extent <= before) {
    return;
  }
  widen(file, axis, extent);
  for (std::int64_t i = before; i < extent; ++i) {
    file.write<std::int64_t>("/" + axis, {i}, {1}, std::vector<std::int64_t>{i});
  }
}

/// Room for the tasks or corpora of this run. Returns the positions of all of them; nothing if they
/// are just those of the file.
std::vector<std::int64_t> widen_names(files::Hdf5File& file, const std::string& axis,
                                      const std::vector<std::string>& own) {
  const std::string dataset = "/" + axis;
  std::vector<std::string> names = file.read_strings(dataset);
  if (names == own) {
    return {};
  }
  const std::int64_t width = file.string_width(dataset);
  const auto before = std::ssize(names);
  std::vector<std::int64_t> positions;
  for (const std::string& name : own) {
    const std::string cut = fitting(name, width);
    std::int64_t position = 0;  // each is given once, also where names are cut to the same
    while (position < std::ssize(names) &&
           (names[static_cast<std::size_t>(position)] != cut ||
            std::find(positions.begin(), positions.end(), position) != positions.end())) {
      ++position;
    }
    if (position == std::ssize(names)) {
      names.push_back(cut);
    }
    positions.push_back(position);
  }
  if (std::ssize(names) > before) {
    if (!file.may_grow(dataset)) {  // an older program has made it
      files::check_axis(file, dataset, join(file.read_strings(dataset), ","), join(own, ","));
    }
    widen(file, axis, std::ssize(names));
    file.write_strings(dataset, before, {names.begin() + before, names.end()});
  }
  return positions;
}

/// The positions of this run's groups of ranks in the file; nothing if it has just these. An older
/// program has made a file without some (-1): what is sent in them is not recorded there.
std::vector<std::int64_t> positions_of_groups(const files::Hdf5File& file,
                                              const std::vector<std::string>& own) {
  const std::vector<std::string> names = file.read_strings("/group");
  if (names == own) {
    return {};
  }
  std::vector<std::int64_t> positions;
  for (const std::string& name : own) {
    const auto found = std::find(names.begin(), names.end(), name);
    positions.push_back(found == names.end() ? -1 : std::distance(names.begin(), found));
  }
  return positions;
}

/// The last step of a file; 0: none.
std::int64_t last_step_in(const files::Hdf5File& file) {
  const auto steps = file.read_all<std::int64_t>("/step");
  return steps.empty() ? 0 : steps.back();
}

}  // namespace

std::uint64_t TracePending::bytes() const {
  std::uint64_t values = events.size() * kMessageBytes / 8;
  for (const TraceRow& row : rows) {
    values +=
        64 + row.task_expert_tokens.size() + 6 * row.expert_tokens.size() + row.rank_seconds.size();
  }
  return 8 * values;
}

TracePositions positions_of(const TraceAxes& axes) {
  TracePositions positions;
  for (const char* axis :
       {"layer", "expert", "choice", "rank", "phase", "task", "corpus", "group"}) {
    positions.extents[axis] = extent_of(axes, axis);
  }
  return positions;
}

void cut_back(files::Hdf5File& file, const TraceLengths& to) {
  const auto cut_to = [&](const std::vector<std::string>& names, std::int64_t rows) {
    for (const std::string& name : names) {
      files::Extents extents = file.extents(name);
      if (extents[0] > rows) {
        extents[0] = rows;
        file.extend(name, extents);
      }
    }
  };
  cut_to(names_in(file, trace_columns()), to.rows);
  cut_to(names_in(file, eval_columns()), to.evals);
  cut_to(event_columns(), to.events);
}

void append(files::Hdf5File& file, const TracePending& pending, const TraceLengths& at,
            const TracePositions& positions) {
  write_rows(file, eval_columns(), pending.evals, at.evals, positions);
  write_events(file, pending.events, at.events);
  write_rows(file, trace_columns(), pending.rows, at.rows, positions);
}

ContinuedTrace continue_trace(files::Hdf5File& file, const TraceAxes& axes,
                              std::int64_t last_step) {
  check_axes(file, axes);
  ContinuedTrace trace{.lengths = {}, .positions = positions_of(axes)};
  const std::int64_t every = file.has_attribute("/", "every")
                                 ? std::atoll(file.string_attribute("/", "every").c_str())
                                 : 0;
  for (const char* axis : {"task", "corpus"}) {
    auto positions = widen_names(file, axis, names_of(axes, axis));
    if (!positions.empty()) {
      trace.positions.positions[axis] = std::move(positions);
    }
  }
  if (auto positions = positions_of_groups(file, axes.groups); !positions.empty()) {
    trace.positions.positions["group"] = std::move(positions);
  }
  write_trace_attributes(file, axes);
  widen_numbers(file, "rank", axes.ranks);
  widen_numbers(file, "expert", axes.experts);
  add_newer_columns(file, axes);
  trace.cut_to = last_step_in(file) > last_step ? last_step_in(file) : 0;
  trace.lengths.rows = cut(file, names_in(file, trace_columns()), last_step);
  trace.lengths.evals = cut(file, names_in(file, eval_columns()), last_step);
  trace.lengths.events = cut(file, event_columns(), last_step);
  trace.ends_at = last_step_in(file);
  trace.lacks_steps =
      every > 0 && trace.ends_at > 0 && trace.ends_at < last_step - last_step % every;
  return trace;
}

}  // namespace moesaic::record
