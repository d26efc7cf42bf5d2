#pragma once

#include <string>
#include <vector>

#include "io/hdf5.h"
#include "io/trace.h"

// What happens inside an open trace file; on the HDF5 thread.
namespace moesaic::io {

struct TraceEvent {
  std::int64_t step = 0;
  std::string kind, message;
};

/// Rows that are not in the file yet.
struct TracePending {
  std::vector<TraceRow> rows;
  std::vector<EvalRow> evals;
  std::vector<TraceEvent> events;
  bool empty() const { return rows.empty() && evals.empty() && events.empty(); }
  std::uint64_t bytes() const;  // about
};

/// Rows that are in the file.
struct TraceLengths {
  std::int64_t rows = 0, evals = 0, events = 0;
};

/// Writes them after the first `at` ones; may be called again if an earlier try failed half-way.
void append(Hdf5File& file, const TracePending& pending, const TraceLengths& at);
/// Takes away what an append that failed half-way has left.
void cut_back(Hdf5File& file, const TraceLengths& to);

/// Readies a file for more rows after last_step: checks the axes, cuts later rows, makes room for
/// more ranks and experts. Returns the lengths that stay.
TraceLengths continue_trace(Hdf5File& file, const TraceAxes& axes, std::int64_t last_step);

}  // namespace moesaic::io
