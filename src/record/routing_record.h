#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "routing/routed_rows.h"

namespace moesaic::record {

/// The axes and attributes of a routing record; fixed for the file's life, but that tasks may come.
struct RoutingAxes {
  std::vector<std::int64_t> moe_layers;  // layer_index of each entry of /layer
  std::int64_t experts = 0;
  std::int64_t choices = 0;    // of a token at most
  std::int64_t step_rows = 0;  // tokens of a step
  std::vector<std::string> tasks, corpora;
  std::map<std::string, std::string> attributes;
};

/// What a rank knows of a step.
struct RoutingPart {
  std::vector<routing::RoutedRows> routed;
  std::vector<routing::TokenRows> tokens;
};

/// Bytes of a recorded step.
double routing_step_bytes(std::int64_t moe_layers, std::int64_t choices, std::int64_t step_rows);

/// Writes a routing record from all ranks: rank 0 makes room in the file, then each rank writes its
/// own rows at their places, and the step counts as recorded once all have. Every function is
/// collective over the world, which must outlive this, and throws AgreedError.
class RoutingWriter {
 public:
  /// Starts a new file (an existing one of another run is set aside with a notice).
  static RoutingWriter create(const std::filesystem::path& file, const RoutingAxes& axes,
                              const comm::Communicator& world);
  /// Throws what resume does where the axes differ, and changes nothing.
  static void check(const std::filesystem::path& file, const RoutingAxes& axes,
                    const comm::Communicator& world);
  /// Continues a file after a restart: steps after last_step are cut. The axes must match. A file
  /// that is missing or damaged is begun anew.
  static RoutingWriter resume(const std::filesystem::path& file, const RoutingAxes& axes,
                              const comm::Communicator& world, std::int64_t last_step);

  /// Parts of all ranks are disjoint and together `rows` rows of every layer.
  void add(std::int64_t step, std::int64_t rows, const RoutingPart& part);
  /// What was added is on disk.
  void sync();

 private:
  RoutingWriter(std::filesystem::path file, const RoutingAxes& axes,
                const comm::Communicator& world);
  void share_lengths();
  std::vector<std::int64_t> make_room(std::int64_t rows);
  void write(const RoutingPart& part, const std::vector<std::int64_t>& places,
             std::int64_t rows) const;
  void commit(std::int64_t step, std::int64_t rows);

  std::filesystem::path file_;
  const comm::Communicator& world_;
  std::int64_t layers_, choices_;
  // Present lengths of the file's axes.
  std::int64_t chunk_rows_ = 0, steps_ = 0, rows_ = 0;
  bool unsynced_ = false;
};

/// Every problem of a routing record, one line each (empty: sound).
std::vector<std::string> verify_routing(const std::filesystem::path& file);

}  // namespace moesaic::record
