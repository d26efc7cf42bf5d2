#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace moesaic::text {

/// A hash table from 64-bit keys to 64-bit values, made for lookups that mostly miss: open
/// addressing, at most half full. The key ~0 is not allowed.
class FlatMap {
 public:
  explicit FlatMap(std::size_t entries = 0) { grow(entries); }

  /// The value of a key, new or not.
  std::uint64_t& operator[](std::uint64_t key) {
    if (2 * (used_ + 1) > slots_.size()) {
      grow(2 * (used_ + 1));
    }
    Slot& slot = slots_[place(key)];
    used_ += slot.key == kNone ? 1 : 0;
    slot.key = key;
    return slot.value;
  }
  const std::uint64_t* find(std::uint64_t key) const {
    const Slot& slot = slots_[place(key)];
    return slot.key == key ? &slot.value : nullptr;
  }
  std::size_t size() const { return used_; }

 private:
  static constexpr std::uint64_t kNone = ~std::uint64_t{0};
  struct Slot {
    std::uint64_t key = kNone, value = 0;
  };

  std::size_t place(std::uint64_t key) const {
    std::size_t at = (key * 0x9E3779B97F4A7C15U) >> shift_;
    while (slots_[at].key != key && slots_[at].key != kNone) {
      at = (at + 1) & (slots_.size() - 1);
    }
    return at;
  }
  void grow(std::size_t entries) {
    std::vector<Slot> old(std::bit_ceil(2 * entries + 2));
    old.swap(slots_);
    shift_ = static_cast<unsigned>(64 - std::countr_zero(slots_.size()));
    for (const Slot& slot : old) {
      if (slot.key != kNone) {
        slots_[place(slot.key)] = slot;
      }
    }
  }

  std::vector<Slot> slots_;
  std::size_t used_ = 0;
  unsigned shift_ = 63;
};

/// Strings by id, and back: an empty string is none, and of equal ones the last counts.
class StringTable {
 public:
  explicit StringTable(std::vector<std::string> strings) : strings_(std::move(strings)) {
    const auto used = static_cast<std::size_t>(std::count_if(
        strings_.begin(), strings_.end(), [](const std::string& text) { return !text.empty(); }));
    slots_.resize(std::bit_ceil(2 * used + 2));
    for (std::size_t id = 0; id < strings_.size(); ++id) {
      if (!strings_[id].empty()) {
        const std::size_t hash = std::hash<std::string_view>{}(strings_[id]);
        slots_[place(strings_[id], hash)] = {tag_of(hash), static_cast<std::int32_t>(id)};
      }
    }
  }

  std::size_t size() const { return strings_.size(); }
  const std::string& operator[](std::int32_t id) const {
    return strings_[static_cast<std::size_t>(id)];
  }
  /// The id of a string; -1 if it is not there.
  std::int32_t find(std::string_view text) const {
    return slots_[place(text, std::hash<std::string_view>{}(text))].id;
  }

 private:
  struct Slot {
    std::uint32_t tag = 0;
    std::int32_t id = -1;
  };
  static std::uint32_t tag_of(std::size_t hash) { return static_cast<std::uint32_t>(hash >> 32U); }
  std::size_t place(std::string_view text, std::size_t hash) const {
    std::size_t at = hash & (slots_.size() - 1);
    while (slots_[at].id >= 0 &&
           (slots_[at].tag != tag_of(hash) || (*this)[slots_[at].id] != text)) {
      at = (at + 1) & (slots_.size() - 1);
    }
    return at;
  }

  std::vector<std::string> strings_;
  std::vector<Slot> slots_;  // at most half full
};

/// Strings by their beginnings, each with a value >= 0.
class Trie {
 public:
  /// The first value of a string stays.
  void add(std::string_view text, std::int32_t value) {
    std::uint64_t node = 0;
    for (const char byte : text) {
      std::uint64_t& next = edges_[key(node, byte)];
      if (next == 0) {
        next = values_.size();
        values_.push_back(-1);
      }
      node = next;
    }
    if (values_[node] < 0) {
      values_[node] = value;
    }
  }
  /// found(length, value) for each string that the text begins with, shorter ones first.
  template <class Found>
  void prefixes(std::string_view text, Found&& found) const {
    std::uint64_t node = 0;
    for (std::size_t i = 0; i < text.size(); ++i) {
      const std::uint64_t* next = edges_.find(key(node, text[i]));
      if (next == nullptr) {
        return;
      }
      node = *next;
      if (values_[node] >= 0) {
        found(i + 1, values_[node]);
      }
    }
  }

 private:
  static std::uint64_t key(std::uint64_t node, char byte) {
    return (node << 8U) | static_cast<unsigned char>(byte);
  }
  FlatMap edges_;
  std::vector<std::int32_t> values_ = {-1};
};

}  // namespace moesaic::text
