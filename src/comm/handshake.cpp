#include "comm/handshake.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>

#include "base/host.h"
#include "base/sha256.h"
#include "base/text.h"
#include "base/version.h"

namespace moesaic::comm {
namespace {

// A name and its value in turn, each ended by a zero byte.
std::string to_text(const Facts& facts) {
  std::string text;
  for (const auto& [name, value] : facts) {
    text.append(name).append(1, '\0').append(value).append(1, '\0');
  }
  return text;
}

std::map<std::string, std::string> from_text(const std::string& text) {
  const std::vector<std::string> parts = split(text, '\0');
  std::map<std::string, std::string> facts;
  for (std::size_t i = 0; i + 1 < parts.size(); i += 2) {
    facts[parts[i]] = parts[i + 1];
  }
  return facts;
}

// Whether all ranks have the same text, by the largest and the smallest of its hashes.
bool all_same(const std::string& text, const Communicator& world) {
  const std::string hash = Sha256::of(std::as_bytes(std::span(text)));
  std::array<std::uint64_t, 4> values{};  // two words of the hash, and their complements
  for (std::size_t i = 0; i < 2; ++i) {
    values[i] = std::stoull(hash.substr(16 * i, 16), nullptr, 16);
    values[i + 2] = ~values[i];
  }
  world.all_reduce(std::span<std::uint64_t>(values), Reduce::kMax);
  return values[0] == ~values[2] && values[1] == ~values[3];
}

std::string or_dash(const std::string& value) { return value.empty() ? "-" : value; }

// This rank's lines of the table, tab-separated; empty if it agrees with rank 0.
std::string rows(const std::string& mine, const std::string& theirs, int rank) {
  constexpr int kRowsOfRank = 4;
  std::map<std::string, std::string> is = from_text(mine);
  std::map<std::string, std::string> was = from_text(theirs);
  for (const auto& [name, value] : was) {
    is.try_emplace(name);
  }
  std::string text;
  int found = 0;
  for (const auto& [name, value] : is) {
    if (value != was[name] && ++found <= kRowsOfRank) {
      text += fmt::format("{}\t{}\t{}\t{}\t{}\n", rank, host_name(), name, or_dash(was[name]),
                          or_dash(value));
    }
  }
  if (found > kRowsOfRank) {
    text += fmt::format("{}\t{}\tand {} more\t\t\n", rank, host_name(), found - kRowsOfRank);
  }
  return text;
}

std::string table_of(const std::vector<std::string>& texts) {
  constexpr std::size_t kRows = 12;
  std::vector<std::vector<std::string>> lines = {{"rank", "host", "key", "rank 0 has", "it has"}};
  std::size_t differing = 0;
  for (const std::string& text : texts) {
    differing += text.empty() ? 0 : 1;
    for (const std::string& row : split(text, '\n')) {
      if (!row.empty() && lines.size() <= kRows) {
        lines.push_back(split(row, '\t'));
      }
    }
  }
  return fmt::format(
      "{} of {} ranks do not agree with rank 0: start all ranks with the same program, "
      "arguments, files and environment\n{}",
      differing, texts.size(), table(lines));
}

}  // namespace

Facts program_facts() {
  std::array<char, MPI_MAX_LIBRARY_VERSION_STRING> mpi{};
  int length = 0;
  MPI_Get_library_version(mpi.data(), &length);
  return {{"version", std::string(version())},
          {"git hash", std::string(git_hash())},
          {"mpi library", split(mpi.data(), '\n').front()}};
}

void check_same(const Facts& facts, const Communicator& world) {
  const std::string mine = to_text(facts);
  if (all_same(mine, world)) {
    return;
  }
  std::string theirs = mine;
  world.broadcast(theirs, 0);
  const std::vector<std::string> texts = world.gather(rows(mine, theirs, world.rank()), 0);
  std::string message = world.is_root() ? table_of(texts) : "";
  world.broadcast(message, 0);
  throw AgreedError(Exit::kMismatch, message);
}

}  // namespace moesaic::comm
