#pragma once

#include <bit>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace moesaic::io {

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

/// From strings to ids; -1 for what is not in it. The strings are kept by whoever made it.
class StringTable {
 public:
  explicit StringTable(std::size_t entries = 0) : slots_(std::bit_ceil(2 * entries + 2)) {}

  /// A later id replaces an earlier one of the same string. Not more than `entries` strings.
  void add(std::string_view text, std::int32_t id) {
    slots_[place(text, hash(text))] = {hash(text), id, text};
  }
  std::int32_t find(std::string_view text) const { return slots_[place(text, hash(text))].id; }

 private:
  struct Slot {
    std::uint64_t hash = 0;
    std::int32_t id = -1;
    std::string_view text;
  };
  static std::uint64_t hash(std::string_view text) { return std::hash<std::string_view>{}(text); }
  std::size_t place(std::string_view text, std::uint64_t hash) const {
    std::size_t at = hash & (slots_.size() - 1);
    while (slots_[at].id >= 0 && (slots_[at].hash != hash || slots_[at].text != text)) {
      at = (at + 1) & (slots_.size() - 1);
    }
    return at;
  }

  std::vector<Slot> slots_;
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

}  // namespace moesaic::io
