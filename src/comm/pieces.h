#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"

// What is too long for one message of MPI, whose counts are ints, goes in pieces.
namespace moesaic::comm {

constexpr std::int64_t kMostInMessage = std::numeric_limits<std::int32_t>::max();

/// Piece number `round` of `length` elements in pieces of `most`; empty behind the end.
struct Piece {
  std::int64_t begin = 0, size = 0;
};
inline Piece piece_of(std::int64_t length, std::int64_t round, std::int64_t most) {
  const std::int64_t begin = std::min(length, round * most);
  return {begin, std::min(length - begin, most)};
}

/// How many pieces the longest of these lists has.
template <class T>
std::int64_t rounds_of(const std::vector<std::vector<T>>& lists, std::int64_t most) {
  std::int64_t rounds = 0;
  for (const auto& list : lists) {
    rounds = std::max(rounds, (std::ssize(list) + most - 1) / most);
  }
  return rounds;
}

/// As Communicator::all_to_all, for lists of any length: no rank sends or gets more than `most`
/// elements at once. Collective over the group.
template <class T>
std::vector<std::vector<T>> all_to_all_in_pieces(const Communicator& group,
                                                 const std::vector<std::vector<T>>& send,
                                                 std::int64_t most = kMostInMessage) {
  if (group.size() == 1) {
    return send;
  }
  const std::int64_t each = std::max<std::int64_t>(1, most / group.size());
  const std::int64_t rounds = group.all_reduce(rounds_of(send, each), Reduce::kMax);
  if (rounds <= 1) {
    return group.all_to_all(send);
  }
  std::vector<std::vector<T>> received(send.size());
  for (std::int64_t round = 0; round < rounds; ++round) {
    std::vector<std::vector<T>> pieces;
    for (const auto& list : send) {
      const Piece piece = piece_of(std::ssize(list), round, each);
      const auto begin = list.begin() + piece.begin;
      pieces.emplace_back(begin, begin + piece.size);
    }
    const auto got = group.all_to_all(pieces);
    for (std::size_t r = 0; r < got.size(); ++r) {
      received[r].insert(received[r].end(), got[r].begin(), got[r].end());
    }
  }
  return received;
}

/// As Communicator::broadcast of a text of any length. Collective over the group.
inline void broadcast_in_pieces(const Communicator& group, std::string& text, int root,
                                std::int64_t most = kMostInMessage) {
  const std::int64_t size = group.all_reduce(
      group.rank() == root ? std::ssize(text) + std::int64_t{0} : std::int64_t{0}, Reduce::kMax);
  text.resize(static_cast<std::size_t>(size));
  const std::span bytes(reinterpret_cast<std::uint8_t*>(text.data()), text.size());
  for (std::int64_t round = 0; round * most < size; ++round) {
    const Piece piece = piece_of(size, round, most);
    group.broadcast(
        bytes.subspan(static_cast<std::size_t>(piece.begin), static_cast<std::size_t>(piece.size)),
        root);
  }
}

}  // namespace moesaic::comm
