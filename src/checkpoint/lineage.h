#pragma once

#include <cstdint>
#include <string>
#include <vector>

// Where the weights of a checkpoint come from, in its state.
namespace moesaic {
class Json;
}

namespace moesaic::checkpoint {

/// A model that training went on from.
struct Ancestor {
  std::string path;         // of the checkpoint or Hugging Face folder, absolute
  std::string adapter;      // that was added to it; empty: none
  std::int64_t step = -1;   // -1: a Hugging Face folder
  std::string fingerprint;  // ModelSource::fingerprint, without times
  std::string objective;    // what it was trained for; empty: unknown
  bool operator==(const Ancestor&) const = default;
};

/// The first ancestor first; the last one is the base of a checkpoint that holds only what was
/// trained.
using Lineage = std::vector<Ancestor>;

Json to_json(const Lineage& lineage);
/// What a checkpoint's state says; empty: it began with random weights, or is older than this.
Lineage lineage_of(const Json& state);
/// Whether a checkpoint holds only what was trained, and needs its base.
bool needs_base(const Json& state);
/// One line for each ancestor.
std::vector<std::string> lineage_text(const Json& state);

}  // namespace moesaic::checkpoint
