#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "hf/family.h"

// The parts of config.json that several families share, read and written. Every writer gets a
// canonical model.
namespace moesaic::hf {

/// A family's table.
void read_fields(std::span<const Field> fields, Reading& r);
void write_fields(std::span<const Field> fields, const config::Model& model,
                  const config::Router& router, Json& json);

/// A field about the loss in training, which a user may want to know of.
void note_loss(Reading& r, const std::string& name);

/// Grouped-query attention; kv_heads and head_dim where they are absent (nothing: heads, and
/// hidden / heads).
void read_heads(Reading& r, std::optional<std::int64_t> kv_heads = {},
                std::optional<std::int64_t> head_dim = {});
void write_heads(const config::Model& model, Json& json);

/// Refuses numbers of experts that cannot be. count: the name of the field that says how many.
void check_experts(Reading& r, const char* count);
/// Groups of experts, of which each token uses some.
void read_groups(Reading& r, std::int64_t groups, std::int64_t top);

/// A window of `width` keys for the layers whose type says so.
void read_windows(Reading& r, std::optional<std::int64_t> width,
                  const std::vector<std::string>& types);
/// "sliding_attention" or "full_attention" for each layer.
Json layer_types(const config::Model& model);

/// The format of the weights.
void read_quantization(Reading& r);

}  // namespace moesaic::hf
