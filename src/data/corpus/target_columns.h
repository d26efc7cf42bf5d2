#pragma once

#include <cstdint>

#include "data/corpus/columns.h"
#include "data/corpus/targets.h"
#include "files/hdf5/file.h"

namespace moesaic::data {

struct ShardDocuments;
struct DocumentRun;

constexpr const char* kSpans = "/documents/spans";
constexpr const char* kGroup = "/documents/group";
constexpr const char* kWeight = "/documents/weight";

/// The columns of a shard that version 2 may have: spans, groups, weights. All are checked when
/// they are read (kBadData). On the HDF5 thread.
class TargetColumns {
 public:
  TargetColumns() = default;
  /// Checks presence, types and lengths.
  TargetColumns(const files::Hdf5File& file, std::int64_t version, std::int64_t documents);

  bool has_spans() const { return has_spans_; }

  /// Adds what there is of all documents; their offsets are there already.
  void read(const files::Hdf5File& file, ShardDocuments& table) const;
  /// Adds spans and weight of one document, the last one of the run.
  void append(const files::Hdf5File& file, std::int64_t document, DocumentRun& run);

 private:
  void check_offsets(const files::Hdf5File& file, std::int64_t first,
                     const std::vector<std::int64_t>& offsets) const;

  std::int64_t documents_ = 0, count_ = 0;  // count: of spans
  bool has_spans_ = false, has_group_ = false, has_weight_ = false;
  ColumnBlocks offsets_, begin_, end_;
  ColumnBlocksOf<float> weight_;
};

}  // namespace moesaic::data
