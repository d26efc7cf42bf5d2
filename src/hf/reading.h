#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "hf/config.h"
#include "hf/fields.h"

// The parts from which families' config.json is read (families.cpp). What an absent field means
// is what transformers' config classes say (5.24, models/*/configuration_*.py).
namespace moesaic::hf {

/// Defaults of the fields that all families have.
struct Shape {
  std::int64_t hidden, layers, heads, vocabulary, max_positions, top_k;
  double norm_eps;
};

/// One config.json on its way into keys.
struct Reading {
  HfFields fields;
  HfConfig config;

  void set(const std::string& key, std::int64_t value) { config.keys[key] = std::to_string(value); }
  void set(const std::string& key, bool value) { config.keys[key] = value ? "1" : "0"; }
  void set(const std::string& key, double value);
  void set(const std::string& key, const char* value) { config.keys[key] = value; }
  std::int64_t get(const std::string& key) const { return integer_of(config.keys, key); }
};

/// Keys of what only some families have, as if this one had it not.
void set_absent(Reading& r);
void read_common(Reading& r, const Shape& shape);
/// A field about the loss in training, which a user may want to know of.
void note_loss(Reading& r, const std::string& name);
/// Grouped-query attention; kv_heads and head_dim where they are absent (nothing: heads, and
/// hidden / heads).
void read_heads(Reading& r, std::optional<std::int64_t> kv_heads,
                std::optional<std::int64_t> head_dim);
/// count: the name of the field that says how many.
void read_experts(Reading& r, const char* count, std::int64_t experts);
/// Groups of experts, of which each token uses some.
void read_groups(Reading& r, std::int64_t groups, std::int64_t top);
/// A window of `width` keys for the layers whose type says so.
void read_windows(Reading& r, std::optional<std::int64_t> width,
                  const std::vector<std::string>& types);
void read_quantization(Reading& r);

/// All of the family's own fields.
void read_family(Reading& r);

}  // namespace moesaic::hf
