#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

// One table of the groups of ranks: mesh, ledger, trace, plan and instance read it.
namespace moesaic::comm {

/// rank = (((pp_i * dp + dp_i) * cp + cp_i) * ep + ep_i) * tp + tp_i
enum Axis : std::uint8_t { kTpAxis = 1, kEpAxis = 2, kCpAxis = 4, kDpAxis = 8, kPpAxis = 16 };

/// In the order in which the trace lists those that tensors move in. A rank is in at most one group
/// of each kind.
enum class Group : std::uint8_t {
  kWorld,
  kTp,
  kEp,
  kEpTp,
  kPp,
  kDp,
  kReplicas,
  kStage,
  kEnds,
  kKv,
  kCp,
  kBatches,
  kExpertStage
};

/// Which ranks along the axes belong together.
enum class Together : std::uint8_t { kAll, kKvCopies, kEnds };

/// Whom a member sends messages: nobody, the next one in those of even tags and the one before in
/// those of odd tags (in a ring), or all.
enum class Messages : std::uint8_t { kNone, kNext, kAll };

struct GroupRow {
  std::string_view name;  // in messages
  unsigned axes;          // along which its members lie
  Together which;
  std::string_view trace;  // in /group of a trace; empty: another row's, or no tensors
  std::string_view sends;  // what moves in it, in the table of `plan`
  Messages messages = Messages::kNone;
};

/// Whole experts are shared out over ep, or over ep x tp where they are folded: one name in traces.
/// Ranks of cp hold the same weights and have rows of the same micro-batch: gradients are summed
/// over them, so `dp` and `replicas` hold them too, and `batches` are the ranks that compute
/// different micro-batches.
inline constexpr std::array kGroups = {
    GroupRow{"world", kTpAxis | kEpAxis | kCpAxis | kDpAxis | kPpAxis, Together::kAll, "", ""},
    GroupRow{"tp", kTpAxis, Together::kAll, "tp", "rows of layers (tp)"},
    GroupRow{"ep", kEpAxis, Together::kAll, "experts", "rows to experts"},
    GroupRow{"ep_tp", kEpAxis | kTpAxis, Together::kAll, "", ""},
    GroupRow{"pp", kPpAxis, Together::kAll, "pp", "rows to stages (pp)", Messages::kNext},
    GroupRow{"dp", kDpAxis | kCpAxis, Together::kAll, "dp", "expert gradients (dp x cp)"},
    GroupRow{"replicas", kDpAxis | kCpAxis | kEpAxis, Together::kAll, "replicas",
             "gradients (dp x cp x ep)"},
    GroupRow{"stage", kTpAxis | kEpAxis | kCpAxis | kDpAxis, Together::kAll, "stage",
             "gates, split norms (tp x dp x cp x ep)"},
    GroupRow{"ends", kPpAxis, Together::kEnds, "ends", "tied table (ends of pp)"},
    GroupRow{"kv", kTpAxis, Together::kKvCopies, "kv", "key and value heads (tp)"},
    GroupRow{"cp", kCpAxis, Together::kAll, "cp", "keys and values (cp)", Messages::kAll},
    GroupRow{"batches", kDpAxis | kEpAxis, Together::kAll, "", ""},
    GroupRow{"expert_stage", kTpAxis | kCpAxis | kDpAxis, Together::kAll, "expert_stage",
             "adapters of split experts (tp x dp x cp)"}};
inline constexpr std::size_t kGroupCount = kGroups.size();

constexpr std::size_t index_of(Group group) { return static_cast<std::size_t>(group); }
constexpr const GroupRow& row_of(Group group) { return kGroups[index_of(group)]; }

/// The groups that tensors move in, as the trace lists them.
inline constexpr std::array kTracedGroups = [] {
  constexpr std::size_t kCount = [] {
    std::size_t count = 0;
    for (const GroupRow& row : kGroups) {
      count += row.trace.empty() ? 0 : 1;
    }
    return count;
  }();
  std::array<Group, kCount> traced{};
  std::size_t next = 0;
  for (std::size_t i = 0; i < kGroupCount; ++i) {
    if (!kGroups[i].trace.empty()) {
      traced[next++] = static_cast<Group>(i);
    }
  }
  return traced;
}();

/// Their names in a trace.
std::vector<std::string> traced_names();

}  // namespace moesaic::comm
