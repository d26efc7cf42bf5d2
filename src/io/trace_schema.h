#pragma once

#include <string>
#include <variant>
#include <vector>

#include "io/hdf5.h"
#include "io/trace.h"

// The arrays of a trace, in one table that the writer and the checker share.
namespace moesaic::io {

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

  /// Whether its last axis may be longer in a later run of the same trace.
  bool grows() const { return !axes.empty() && (axes.back() == "rank" || axes.back() == "expert"); }
};

constexpr std::int64_t kMessageBytes = 1024;  // of /events/message

const std::vector<TraceColumn<TraceRow>>& trace_columns();  // first axis: /step
const std::vector<TraceColumn<EvalRow>>& eval_columns();    // first axis: /eval/step

/// Entries of an axis by name.
std::int64_t extent_of(const TraceAxes& axes, const std::string& axis);

/// A file with every array empty, all scales tied, and the attributes set.
void write_trace_skeleton(Hdf5File& file, const TraceAxes& axes);
void write_trace_attributes(Hdf5File& file, const TraceAxes& axes);

}  // namespace moesaic::io
