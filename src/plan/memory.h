#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <utility>

#include "config/config.h"
#include "model/parameter/parameters.h"
#include "plan/layout.h"
#include "plan/model_size.h"
#include "plan/process_memory.h"
#include "routing/gate_state.h"

namespace moesaic::plan {

/// Choices that a rank sends to experts, of a micro-batch of so many tokens: top_k for each of its
/// own rows over cp, or what the slots hold, which are those of the whole micro-batch; of its own
/// rows over tp as well where the experts are folded.
double sent_rows(const config::Config& config, const Layout& layout, double tokens);

/// Bytes on one rank, by class: tensors, of balanced expert loads, and the rest of the process.
struct Memory {
  double weights = 0.0;      // fp32
  double copies = 0.0;       // bf16 copies of what matrix products read
  double gradients = 0.0;    // fp32
  double moments = 0.0;      // AdamW, two fp32
  double activations = 0.0;  // kept from forward to backward, of all micro-batches in flight
  double dispatch = 0.0;     // rows on their way through the experts of one layer
  double logits = 0.0;       // of one block of rows; never with these, so the larger counts
  double cache = 0.0;        // of generate: all pages, and what latent attention reads beside them
  ProcessMemory process;

  std::array<std::pair<std::string_view, double>, 16> classes() const;
  double sum() const;
};

/// Bytes that a page of the cache takes on one rank of a stage, in all its layers.
double page_bytes(const config::Config& config, const Layout& layout, std::int64_t stage);
/// The same, of the stage where it takes most.
double most_page_bytes(const config::Config& config, const Layout& layout);
/// Pages in generate.cache, of the stage that has room for fewest.
std::int64_t cache_pages(const config::Config& config, const Layout& layout);

/// Bytes of tensors on one rank of a stage, by class; the config must be resolved. `training` adds
/// gradients, moments and what backward needs, of what `tuning` trains.
Memory memory_per_rank(const config::Config& config, const Layout& layout, std::int64_t stage,
                       bool training, const routing::GateState& gates = {},
                       const model::Tuning& tuning = {});

/// Adds the rest of the process to what memory_per_rank found, for the job of config.plan. size: of
/// the whole model.
void add_process(const config::Config& config, const Layout& layout, std::int64_t stage,
                 const routing::GateState& gates, const ModelSize& size,
                 const model::Tuning& tuning, Memory& memory);

/// Bytes of a checkpoint that convert.quantize = run.quantize makes, with all else in fp32.
double quantized_bytes(const config::Config& config, const routing::GateState& gates = {});

}  // namespace moesaic::plan
