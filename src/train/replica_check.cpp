#include "train/replica_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <map>

#include "base/host.h"
#include "base/text.h"
#include "tensor/rng.h"

namespace moesaic::train {
namespace {

constexpr std::uint64_t kNone = std::numeric_limits<std::uint64_t>::max();

// The part of a public tensor on this rank, and the hashes of all its holders.
struct Part {
  const model::Parameter& parameter;
  const model::PublicTensor& tensor;
  std::uint64_t hash;
  std::uint64_t least = hash, inverse = ~hash;  // the least hash, and the least of ~hash

  bool differs() const { return least != ~inverse; }
  /// The same for all holders of this part, and for no others.
  std::uint64_t key() const {
    return mix64(hash_name(tensor.name) ^ mix64(static_cast<std::uint64_t>(tensor.slice.begin)));
  }
};

void add(BitHash& hash, Backend& backend, const Tensor& tensor, std::vector<std::byte>& buffer) {
  if (tensor.location() == Location::kHost) {
    hash.add({tensor.data(), tensor.bytes()});
    return;
  }
  const Tensor flat = tensor.reshaped({tensor.numel()});
  constexpr std::int64_t kElements = 1 << 24;
  for (std::int64_t begin = 0; begin < flat.numel(); begin += kElements) {
    const Tensor piece = flat.rows(begin, std::min(kElements, flat.numel() - begin));
    buffer.resize(piece.bytes());
    backend.download(piece, buffer);
    hash.add(buffer);
  }
}

std::uint64_t hash_of(Backend& backend, const model::Parameter& p,
                      const model::PublicTensor& tensor, std::vector<std::byte>& buffer) {
  std::uint64_t all = 0;
  const auto take = [&](const Tensor& rows) {
    BitHash hash;
    add(hash, backend, rows, buffer);
    all = mix64(all) ^ hash.value();
  };
  take(p.rows_of(p.value.defined() ? p.value : p.compute, p.rows_with(tensor)));
  const Slice trained = p.trained_rows_with(tensor);
  if (p.owners == 1 && trained.count > 0) {
    take(p.exp_avg.rows(trained.begin, trained.count));
    take(p.exp_avg_sq.rows(trained.begin, trained.count));
  }
  return all;
}

std::vector<Part> parts_of(engine::Instance& instance) {
  std::vector<Part> parts;
  std::vector<std::byte> buffer;
  for (const model::Parameter& p : instance.parameters.all()) {
    for (const model::PublicTensor& tensor : p.spec.tensors) {
      parts.push_back({p, tensor, hash_of(*instance.backend, p, tensor, buffer)});
    }
  }
  return parts;
}

// Collective over the group, all members of which have the same such parts.
template <class Chosen>
void reduce(std::vector<Part>& parts, const comm::Communicator& group, const Chosen& chosen) {
  std::vector<std::uint64_t> least;
  for (const Part& part : parts) {
    if (chosen(part)) {
      least.insert(least.end(), {part.least, part.inverse});
    }
  }
  group.all_reduce(std::span(least), comm::Reduce::kMin);
  auto next = least.begin();
  for (Part& part : parts) {
    if (chosen(part)) {
      part.least = *next++;
      part.inverse = *next++;
    }
  }
}

// Holders are the group that sums the gradient, times the copies of tp or of both ends of a
// pipeline.
void reduce_over_holders(std::vector<Part>& parts, engine::Instance& instance) {
  for (const model::SumOver sum : model::kAllSums) {
    reduce(parts, instance.group_of(sum).group(),
           [sum](const Part& part) { return part.parameter.spec.sum == sum; });
  }
  reduce(parts, instance.mesh[comm::Group::kEnds],
         [](const Part& part) { return part.parameter.spec.tied; });
  reduce(parts, instance.mesh[comm::Group::kKv],
         [](const Part& part) { return part.tensor.partial; });
  reduce(parts, instance.mesh[comm::Group::kTp], [](const Part& part) {
    const model::ParameterSpec& spec = part.parameter.spec;
    return part.tensor.copies > 1 && !spec.tied && !part.tensor.partial &&
           !model::is_over_tp(spec.sum);
  });
}

// The ranks whose hash fewer have than another one; all of them if no hash has most ranks.
std::vector<int> minority(const std::map<std::uint64_t, std::vector<int>>& ranks_of_hash) {
  std::size_t most = 0;
  for (const auto& [hash, ranks] : ranks_of_hash) {
    most = std::max(most, ranks.size());
  }
  const auto has_most = [most](const auto& entry) { return entry.second.size() == most; };
  const bool tie = std::count_if(ranks_of_hash.begin(), ranks_of_hash.end(), has_most) > 1;
  std::vector<int> few;
  for (const auto& entry : ranks_of_hash) {
    if (tie || !has_most(entry)) {
      few.insert(few.end(), entry.second.begin(), entry.second.end());
    }
  }
  std::sort(few.begin(), few.end());
  return few;
}

// Collective over the world. held: the part in question, where this rank has it.
ReplicaDifference describe(const comm::Communicator& world, const Part* held, std::int64_t count) {
  const std::vector<std::uint64_t> mine = {held != nullptr ? 1U : 0U,
                                           held != nullptr ? held->hash : 0U};
  const auto all = world.all_gather(std::span(mine));
  std::map<std::uint64_t, std::vector<int>> ranks_of_hash;
  int holders = 0, speaker = 0;
  for (int rank = world.size() - 1; rank >= 0; --rank) {
    const auto at = 2 * static_cast<std::size_t>(rank);
    if (all[at] != 0) {
      ranks_of_hash[all[at + 1]].push_back(rank);
      speaker = rank;
      ++holders;
    }
  }
  ReplicaDifference found{.tensor = held != nullptr ? held->tensor.name : "",
                          .ranks = minority(ranks_of_hash),
                          .message = {}};
  world.broadcast(found.tensor, speaker);
  const std::vector<std::string> hosts = world.gather(host_name(), 0);
  std::vector<std::string> names;
  for (std::size_t i = 0; i < found.ranks.size() && world.is_root(); ++i) {
    const int rank = found.ranks[i];
    names.push_back(fmt::format("rank {} on {}", rank, hosts[static_cast<std::size_t>(rank)]));
  }
  const auto few = static_cast<int>(found.ranks.size());
  const std::string more = count > 1 ? fmt::format(" ({} tensors differ)", count) : "";
  found.message =
      few < holders
          ? fmt::format("{} does not have the bits of tensor {} that {} other ranks have{}",
                        join(names, ", "), found.tensor, holders - few, more)
          : fmt::format("{} have different bits of tensor {}, and each should have the same{}",
                        join(names, ", "), found.tensor, more);
  world.broadcast(found.message, 0);
  return found;
}

}  // namespace

namespace {

std::uint64_t word_at(const std::byte* bytes) {
  std::uint64_t word = 0;
  std::memcpy(&word, bytes, sizeof(word));
  return word;
}

// One to one in the lane as in the word: factors are odd.
std::uint64_t mixed(std::uint64_t lane, std::uint64_t word) {
  constexpr std::uint64_t kOfWord = 0x9e3779b97f4a7c15ULL, kOfLane = 0xd6e8feb86659fd93ULL;
  return std::rotl(lane + word * kOfWord, 31) * kOfLane;
}

}  // namespace

void BitHash::add(std::span<const std::byte> bytes) {
  constexpr std::size_t kBytes = 32;
  // By name: a loop over them becomes slow vector products.
  std::uint64_t a = lanes_[0], b = lanes_[1], c = lanes_[2], d = lanes_[3];
  const auto take = [&](const std::byte* from) {
    a = mixed(a, word_at(from));
    b = mixed(b, word_at(from + 8));
    c = mixed(c, word_at(from + 16));
    d = mixed(d, word_at(from + 24));
  };
  const std::size_t whole = bytes.size() / kBytes * kBytes;
  for (std::size_t begin = 0; begin < whole; begin += kBytes) {
    take(bytes.data() + begin);
  }
  if (whole < bytes.size()) {
    std::array<std::byte, kBytes> rest{};
    std::memcpy(rest.data(), bytes.data() + whole, bytes.size() - whole);
    take(rest.data());
  }
  lanes_ = {a, b, c, d};
  bytes_ += bytes.size();
}

std::uint64_t BitHash::value() const {
  std::uint64_t hash = mix64(bytes_);
  for (const std::uint64_t lane : lanes_) {
    hash = mix64(hash ^ lane);
  }
  return hash;
}

std::optional<ReplicaDifference> compare_replicas(engine::Instance& instance) {
  const comm::Communicator& world = instance.mesh.world;
  std::vector<Part> parts = parts_of(instance);
  reduce_over_holders(parts, instance);
  std::uint64_t key = kNone;
  std::int64_t count = 0;
  for (const Part& part : parts) {
    if (part.differs()) {
      key = std::min(key, part.key());
      ++count;
    }
  }
  key = world.all_reduce(key, comm::Reduce::kMin);
  if (key == kNone) {
    return std::nullopt;
  }
  count = world.all_reduce(count, comm::Reduce::kMax);
  const auto held = std::find_if(parts.begin(), parts.end(),
                                 [key](const Part& part) { return part.key() == key; });
  return describe(world, held != parts.end() ? &*held : nullptr, count);
}

}  // namespace moesaic::train
