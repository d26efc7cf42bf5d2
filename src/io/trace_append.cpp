#include "io/trace_append.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "base/error.h"
#include "base/text.h"
#include "io/trace_schema.h"

namespace moesaic::io {
namespace {

const std::vector<std::string> kEventColumns = {"/events/step", "/events/kind", "/events/message"};

/// The values of one column in all rows. Where the last axis may grow, and other runs of the trace
/// had more of it, each is padded with NaN (or 0) up to `width` for each of `lines`.
template <class T, class Row, class Member>
std::vector<T> gather(const std::vector<Row>& rows, Member member, std::size_t lines,
                      std::size_t width, const TraceColumn<Row>& column) {
  std::vector<T> values;
  values.reserve(rows.size() * lines * width);
  for (const Row& row : rows) {
    if constexpr (std::is_same_v<Member, T Row::*>) {
      values.push_back(row.*member);
    } else {
      const std::vector<T>& part = row.*member;
      const std::size_t own = part.size() / lines;
      const bool fits =
          own * lines == part.size() && (own == width || (column.grows() && own < width));
      require(fits, fmt::format("trace row: {} has {} values, not {}", column.name, part.size(),
                                lines * width));
      for (auto line = part.begin(); line != part.end(); line += static_cast<std::ptrdiff_t>(own)) {
        values.insert(values.end(), line, line + static_cast<std::ptrdiff_t>(own));
        values.resize(values.size() + width - own, std::numeric_limits<T>::quiet_NaN());
      }
    }
  }
  return values;
}

/// Writes the rows at `first` (again, if an earlier try failed half-way).
template <class Row>
void write_rows(Hdf5File& file, const std::vector<TraceColumn<Row>>& columns,
                const std::vector<Row>& rows, std::int64_t first) {
  const auto count = static_cast<std::int64_t>(rows.size());
  for (const TraceColumn<Row>& column : columns) {
    if (rows.empty() || !file.has(column.name)) {
      continue;
    }
    Extents extents = file.extents(column.name);
    std::size_t lines = 1;
    for (std::size_t i = 1; i + 1 < extents.size(); ++i) {
      lines *= static_cast<std::size_t>(extents[i]);
    }
    const auto width = extents.size() > 1 ? static_cast<std::size_t>(extents.back()) : 1;
    extents[0] = first + count;
    file.extend(column.name, extents);
    Extents offset(extents.size(), 0);
    offset[0] = first;
    extents[0] = count;
    std::visit(
        [&](auto member) {
          constexpr bool kFloating = std::is_same_v<decltype(member), double Row::*> ||
                                     std::is_same_v<decltype(member), std::vector<double> Row::*>;
          using T = std::conditional_t<kFloating, double, std::int64_t>;
          const auto values = gather<T>(rows, member, lines, width, column);
          file.write<T>(column.name, offset, extents, values);
        },
        column.member);
  }
}

/// A long text (a table of changed keys, say) is cut between characters; the log has all of it.
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

void write_events(Hdf5File& file, const std::vector<TraceEvent>& events, std::int64_t first) {
  std::vector<std::int64_t> steps;
  std::vector<std::string> kinds, messages;
  for (const TraceEvent& event : events) {
    steps.push_back(event.step);
    kinds.push_back(event.kind);
    messages.push_back(fitting(event.message, kMessageBytes));
  }
  const auto count = static_cast<std::int64_t>(events.size());
  for (const std::string& name : kEventColumns) {
    file.extend(name, {first + count});
  }
  file.write<std::int64_t>("/events/step", {first}, {count}, steps);
  file.write_strings("/events/kind", first, kinds);
  file.write_strings("/events/message", first, messages);
}

/// Cuts the arrays after the last row whose step is at most last_step, and after the shortest of
/// them (a kill may have left some longer). Returns the rows that stay.
std::int64_t cut(Hdf5File& file, const std::vector<std::string>& names, std::int64_t last_step) {
  const auto steps = file.read_all<std::int64_t>(names.front());
  std::int64_t keep = std::distance(
      steps.begin(), std::find_if(steps.begin(), steps.end(),
                                  [last_step](std::int64_t step) { return step > last_step; }));
  for (const std::string& name : names) {
    keep = std::min(keep, file.extents(name).at(0));
  }
  for (const std::string& name : names) {
    Extents extents = file.extents(name);
    extents[0] = keep;
    file.extend(name, extents);
  }
  return keep;
}

template <class Row>
std::vector<std::string> names_in(const Hdf5File& file,
                                  const std::vector<TraceColumn<Row>>& columns) {
  std::vector<std::string> names;
  for (const TraceColumn<Row>& column : columns) {
    if (file.has(column.name)) {
      names.push_back(column.name);
    }
  }
  return names;
}

void check_axis(const Hdf5File& file, const std::string& axis, const std::string& was,
                const std::string& is) {
  if (was != is) {
    throw Error(Exit::kMismatch,
                fmt::format("{}: its /{} is {}, this run's is {}: name another trace.path, or "
                            "rename the file",
                            file.path().string(), axis, was, is));
  }
}

void check_axes(const Hdf5File& file, const TraceAxes& axes) {
  check_axis(file, "layer",
             fmt::format("{}", fmt::join(file.ints_attribute("/layer", "layer_index"), ",")),
             fmt::format("{}", fmt::join(axes.moe_layers, ",")));
  check_axis(file, "expert", file.extents("/expert").at(0) > 0 ? "some" : "none",
             axes.experts > 0 ? "some" : "none");
  check_axis(file, "phase", join(file.read_strings("/phase"), ","), join(axes.phases, ","));
  check_axis(file, "task", join(file.read_strings("/task"), ","), join(axes.tasks, ","));
  check_axis(file, "corpus", join(file.read_strings("/corpus"), ","), join(axes.corpora, ","));
}

/// Room for the ranks or experts of this run: an axis and every column that ends with it. Earlier
/// rows have NaN (or 0) there.
void widen(Hdf5File& file, const std::string& axis, std::int64_t extent) {
  const std::int64_t before = file.extents("/" + axis).at(0);
  if (extent <= before) {
    return;
  }
  for (const TraceColumn<TraceRow>& column : trace_columns()) {
    if (!column.axes.empty() && column.axes.back() == axis && file.has(column.name)) {
      Extents extents = file.extents(column.name);
      extents.back() = extent;
      file.extend(column.name, extents);
    }
  }
  file.extend("/" + axis, {extent});
  for (std::int64_t i = before; i < extent; ++i) {
    file.write<std::int64_t>("/" + axis, {i}, {1}, std::vector<std::int64_t>{i});
  }
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

void append(Hdf5File& file, const TracePending& pending, const TraceLengths& at) {
  write_rows(file, eval_columns(), pending.evals, at.evals);
  write_events(file, pending.events, at.events);
  write_rows(file, trace_columns(), pending.rows, at.rows);
}

void cut_back(Hdf5File& file, const TraceLengths& to) {
  const auto cut_to = [&](const std::vector<std::string>& names, std::int64_t rows) {
    for (const std::string& name : names) {
      Extents extents = file.extents(name);
      if (extents[0] > rows) {
        extents[0] = rows;
        file.extend(name, extents);
      }
    }
  };
  cut_to(names_in(file, trace_columns()), to.rows);
  cut_to(names_in(file, eval_columns()), to.evals);
  cut_to(kEventColumns, to.events);
}

TraceLengths continue_trace(Hdf5File& file, const TraceAxes& axes, std::int64_t last_step) {
  check_axes(file, axes);
  write_trace_attributes(file, axes);
  widen(file, "rank", axes.ranks);
  widen(file, "expert", axes.experts);
  TraceLengths lengths;
  lengths.rows = cut(file, names_in(file, trace_columns()), last_step);
  lengths.evals = cut(file, names_in(file, eval_columns()), last_step);
  lengths.events = cut(file, kEventColumns, last_step);
  return lengths;
}

}  // namespace moesaic::io
