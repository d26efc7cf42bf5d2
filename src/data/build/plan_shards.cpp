#include "data/build/plan_shards.h"

#include <algorithm>
#include <cmath>
#include <span>

#include "base/error.h"
#include "comm/pieces.h"

namespace moesaic::data {
namespace {

constexpr std::int64_t kShardBytes = std::int64_t{64} << 20;  // of text
constexpr std::int64_t kFewShards = 4;                        // of a small corpus

using comm::Reduce;

/// The corpus of each document of this rank.
std::vector<std::int64_t> split_off(const Scan& scan, double share,
                                    const comm::Communicator& world) {
  std::vector<std::int64_t> corpus(scan.documents.size());
  if (share <= 0.0) {
    return corpus;
  }
  std::uint64_t least = ~std::uint64_t{0};
  std::int64_t all = 0;
  for (const ScannedDocument& document : scan.documents) {
    least = std::min(least, document.unit_hash);
    all += document.begins_unit() ? 1 : 0;
  }
  least = world.all_reduce(least, Reduce::kMin);
  all = world.all_reduce(all, Reduce::kSum);
  const std::uint64_t limit = holdout_limit(share);
  for (std::size_t d = 0; d < corpus.size(); ++d) {
    const std::uint64_t hash = scan.documents[d].unit_hash;
    corpus[d] = hash < limit || (hash == least && all > 1) ? 1 : 0;
  }
  return corpus;
}

std::vector<CorpusPlan> count(const Scan& scan, const std::vector<std::int64_t>& corpus,
                              std::size_t corpora, const comm::Communicator& world) {
  const std::size_t tasks = scan.task_names.size();
  const std::size_t width = tasks + 2;
  std::vector<std::int64_t> sums(corpora * width);  // of each: documents, bytes, by task
  for (std::size_t d = 0; d < corpus.size(); ++d) {
    const std::size_t at = static_cast<std::size_t>(corpus[d]) * width;
    ++sums[at];
    sums[at + 1] += scan.documents[d].bytes;
    ++sums[at + 2 + static_cast<std::size_t>(scan.documents[d].task)];
  }
  world.all_reduce(std::span<std::int64_t>(sums), Reduce::kSum);
  std::vector<CorpusPlan> plans(corpora);
  for (std::size_t c = 0; c < corpora; ++c) {
    const auto first = sums.begin() + static_cast<std::ptrdiff_t>(c * width);
    plans[c].documents = first[0];
    plans[c].bytes = first[1];
    plans[c].task_documents.assign(first + 2, first + static_cast<std::ptrdiff_t>(width));
  }
  return plans;
}

std::int64_t shard_count(const CorpusPlan& plan, std::int64_t wanted) {
  if (wanted > 0) {
    return wanted;
  }
  const std::int64_t few = std::clamp<std::int64_t>(plan.documents, 1, kFewShards);
  return std::max((plan.bytes + kShardBytes - 1) / kShardBytes, few);
}

/// The shard of each document of this rank: where the middle of its text lies among all texts of
/// its corpus. A document weighs its bytes and one more, so that empty ones count.
std::vector<std::int64_t> place(const Scan& scan, const std::vector<std::int64_t>& corpus,
                                const std::vector<CorpusPlan>& plans, std::int64_t files,
                                const comm::Communicator& world) {
  const auto rows = static_cast<std::size_t>(files);
  std::vector<std::int64_t> begin(plans.size() * rows);  // weight of each file, then before it
  const auto at = [&](std::size_t d) {
    return static_cast<std::size_t>(corpus[d]) * rows +
           static_cast<std::size_t>(scan.documents[d].file);
  };
  for (std::size_t d = 0; d < corpus.size(); ++d) {
    begin[at(d)] += scan.documents[d].bytes + 1;
  }
  world.all_reduce(std::span<std::int64_t>(begin), Reduce::kSum);
  for (std::size_t c = 0; c < plans.size(); ++c) {
    std::int64_t before = 0;
    for (std::size_t f = 0; f < rows; ++f) {
      const std::int64_t here = begin[c * rows + f];
      begin[c * rows + f] = before;
      before += here;
    }
  }
  std::vector<std::int64_t> shard(corpus.size());
  for (std::size_t d = 0; d < corpus.size(); ++d) {
    const CorpusPlan& plan = plans[static_cast<std::size_t>(corpus[d])];
    const std::int64_t weight = scan.documents[d].bytes + 1;
    const double middle = static_cast<double>(begin[at(d)]) + static_cast<double>(weight) / 2;
    const auto total = static_cast<double>(plan.bytes + plan.documents);
    const auto of = static_cast<std::int64_t>(middle / total * static_cast<double>(plan.shards));
    const bool goes_on = d > 0 && !scan.documents[d].begins_unit();
    shard[d] = goes_on ? shard[d - 1] : std::min(of, plan.shards - 1);
    begin[at(d)] += weight;
  }
  return shard;
}

/// Where the number of shards is ours to choose, none is empty.
void drop_empty_shards(std::vector<CorpusPlan>& plans, const std::vector<std::int64_t>& corpus,
                       std::vector<std::int64_t>& shard, const comm::Communicator& world) {
  for (std::size_t c = 0; c < plans.size(); ++c) {
    std::vector<std::int64_t> number(static_cast<std::size_t>(plans[c].shards));
    for (std::size_t d = 0; d < corpus.size(); ++d) {
      if (static_cast<std::size_t>(corpus[d]) == c) {
        number[static_cast<std::size_t>(shard[d])] = 1;
      }
    }
    world.all_reduce(std::span<std::int64_t>(number), Reduce::kMax);
    std::int64_t used = 0;
    for (std::int64_t& each : number) {
      used += each;
      each = used - 1;
    }
    plans[c].shards = std::max<std::int64_t>(used, 1);
    for (std::size_t d = 0; d < corpus.size(); ++d) {
      if (static_cast<std::size_t>(corpus[d]) == c) {
        shard[d] = number[static_cast<std::size_t>(shard[d])];
      }
    }
  }
}

}  // namespace

int writer_of(const ShardPlan& plan, std::int64_t corpus, std::int64_t shard, int ranks) {
  return static_cast<int>(shard * ranks / plan.corpora[static_cast<std::size_t>(corpus)].shards);
}

ShardPlan plan_shards(const Scan& scan, std::int64_t files, const config::Tokenize& config,
                      const comm::Communicator& world) {
  ShardPlan plan;
  const auto corpus = split_off(scan, config.holdout, world);
  plan.corpora = count(scan, corpus, config.holdout > 0.0 ? 2 : 1, world);
  for (CorpusPlan& each : plan.corpora) {
    each.shards = shard_count(each, config.shards);
  }
  auto shard = place(scan, corpus, plan.corpora, files, world);
  if (config.shards == 0) {
    drop_empty_shards(plan.corpora, corpus, shard, world);
  }
  std::vector<std::vector<std::int64_t>> send(static_cast<std::size_t>(world.size()));
  for (std::size_t d = 0; d < corpus.size(); ++d) {
    const ScannedDocument& document = scan.documents[d];
    const int writer = writer_of(plan, corpus[d], shard[d], world.size());
    auto& part = send[static_cast<std::size_t>(writer)];
    part.insert(part.end(), {document.file, document.line, document.offset, corpus[d], shard[d],
                             document.task, document.grouped ? document.unit_line : -1});
  }
  for (const auto& part : comm::all_to_all_in_pieces(world, send)) {
    for (std::size_t i = 0; i < part.size(); i += 7) {
      plan.documents.push_back(
          {part[i], part[i + 1], part[i + 2], part[i + 3], part[i + 4], part[i + 5], part[i + 6]});
    }
  }
  std::sort(plan.documents.begin(), plan.documents.end());
  return plan;
}

}  // namespace moesaic::data
