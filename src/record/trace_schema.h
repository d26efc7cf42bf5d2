#pragma once

#include <algorithm>
#include <string>
#include <variant>
#include <vector>

#include "files/hdf5/file.h"
#include "record/trace.h"

// The arrays of a trace, in one table that the writer and the checker share.
namespace moesaic::record {

constexpr const char* kTraceSchema = "moesaic-trace";
constexpr std::int64_t kTraceVersion = 1;

enum class Stored { kF8, kF4, kI8, kI4, kU1 };

/// One growing array of rows: its axes after the first, and where a row keeps its values.
template <class Row>
struct TraceColumn {
  std::string name;
  std::vector<std::string> axes;
  Stored stored;
  std::string units, long_name;
  std::variant<double Row::*, std::int64_t Row::*, std::vector<double> Row::*,
               std::vector<std::int64_t> Row::*>
      member;
  bool newer = false;  // traces of older programs are without it

  /// Whether an axis of it may be longer in a later run of the same trace.
  bool grows() const;
};

/// Axes that a later run of the same trace may have more of: numbered ones, and those of names.
bool is_numbered(const std::string& axis);  // rank, expert
bool is_named(const std::string& axis);     // task, corpus

template <class Row>
bool TraceColumn<Row>::grows() const {
  return std::any_of(axes.begin(), axes.end(),
                     [](const std::string& axis) { return is_numbered(axis) || is_named(axis); });
}

constexpr std::int64_t kMessageBytes = 1024;    // of /events/message
constexpr const char* kTraceGap = "trace_gap";  // the event of a step before which rows are missing

const std::vector<TraceColumn<TraceRow>>& trace_columns();  // first axis: /step
const std::vector<TraceColumn<EvalRow>>& eval_columns();    // first axis: /eval/step

/// Entries of an axis by name, and those of an axis of names.
std::int64_t extent_of(const TraceAxes& axes, const std::string& axis);
const std::vector<std::string>& names_of(const TraceAxes& axes, const std::string& axis);

/// A name as an axis has it, which holds so many bytes of each; a longer text is cut between
/// characters.
std::string fitting(std::string text, std::int64_t most);

/// An axis of names to which a restart may add others.
void write_names(files::Hdf5File& file, const std::string& name,
                 const std::vector<std::string>& values);

/// A file with every array empty, all scales tied, and the attributes set.
void write_trace_skeleton(files::Hdf5File& file, const TraceAxes& axes);
void write_trace_attributes(files::Hdf5File& file, const TraceAxes& axes);
/// Those that the file of an older program is without: NaN in the rows that are there.
void add_newer_columns(files::Hdf5File& file, const TraceAxes& axes);

}  // namespace moesaic::record
