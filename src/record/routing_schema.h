#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "files/hdf5/file.h"
#include "record/routing_record.h"

// The arrays of a routing record; on the HDF5 thread.
namespace moesaic::record {

constexpr const char* kRoutingSchema = "moesaic-routing";
constexpr std::int64_t kRoutingVersion = 1;

/// One array with a row for each token, of every layer or of the token alone.
struct RoutingColumn {
  const char* name;
  std::int64_t bytes;  // of an element
  bool by_layer;       // [row, layer, choice], else [row]
};

enum RoutingColumnIndex : std::size_t {
  kChosen,
  kWeight,
  kFate,
  kTarget,
  kCorpus,
  kDocument,
  kPosition,
  kToken,
  kTask
};

constexpr std::array<RoutingColumn, 9> kRoutingColumns{{{"/chosen", 2, true},
                                                        {"/weight", 4, true},
                                                        {"/fate", 1, true},
                                                        {"/target", 2, true},
                                                        {"/tokens/corpus", 2, false},
                                                        {"/tokens/document", 8, false},
                                                        {"/tokens/position", 8, false},
                                                        {"/tokens/token", 4, false},
                                                        {"/tokens/task", 1, false}}};

/// A file without steps: all arrays empty, attributes set.
void write_routing_skeleton(files::Hdf5File& file, const RoutingAxes& axes);
/// The steps that are whole, ascending, and the first row of each and the end of the last. Where
/// the disk or the job failed amid one, a step of 0 or an offset without a step may follow.
struct RoutingSteps {
  std::vector<std::int64_t> step, offset;
};
RoutingSteps read_routing_steps(const files::Hdf5File& file);
void write_routing_attributes(files::Hdf5File& file, const RoutingAxes& axes);

/// Sets the number of rows of every column.
void resize_routing(files::Hdf5File& file, std::int64_t rows);

}  // namespace moesaic::record
