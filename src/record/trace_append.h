#pragma once

#include <map>
#include <string>
#include <vector>

#include "files/hdf5/file.h"
#include "record/trace.h"

// What happens inside an open trace file; on the HDF5 thread.
namespace moesaic::record {

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

/// Where the values of a run lie among those of its trace, by the names of axes; -1: nowhere.
struct TracePositions {
  std::map<std::string, std::int64_t> extents;                 // of the run's rows
  std::map<std::string, std::vector<std::int64_t>> positions;  // of each entry; absent: the same
};
TracePositions positions_of(const TraceAxes& axes);  // those of a file that has just these axes

/// Writes them after the first `at` ones; may be called again if an earlier try failed half-way.
void append(files::Hdf5File& file, const TracePending& pending, const TraceLengths& at,
            const TracePositions& positions);
/// Takes away what an append that failed half-way has left.
void cut_back(files::Hdf5File& file, const TraceLengths& to);

/// A file that was readied for more rows.
struct ContinuedTrace {
  TraceLengths lengths;  // that stay
  TracePositions positions;
  std::int64_t cut_to = 0;   // the last step that was cut; 0: none
  std::int64_t ends_at = 0;  // the last step that stays; 0: none
  bool lacks_steps = false;  // between that and last_step
};
/// Checks the axes, cuts rows after last_step, makes room for what this run has more of.
ContinuedTrace continue_trace(files::Hdf5File& file, const TraceAxes& axes, std::int64_t last_step);

}  // namespace moesaic::record
