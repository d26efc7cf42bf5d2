#include "cli/convert_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>

#include "base/log.h"
#include "checkpoint/catalog.h"
#include "cli/job.h"
#include "engine/pipeline.h"
#include "hf/unfinished.h"

namespace moesaic::cli {
namespace {

namespace fs = std::filesystem;

// As many tokens as a short sentence has, spread over the vocabulary.
data::MicroBatch probe(const config::Config& config) {
  std::vector<std::int32_t> tokens(
      static_cast<std::size_t>(std::min<std::int64_t>(48, config.model.max_seq)));
  std::int64_t place = 0;
  for (std::int32_t& token : tokens) {
    token = static_cast<std::int32_t>(7919 * ++place % config.model.vocab_size);
  }
  return data::text_batch(tokens, std::ssize(tokens));
}

/// Log-probabilities of the probe; on the last stage. Collective over the mesh.
std::vector<float> compute(const config::Config& config, const routing::GateState& gates,
                           checkpoint::ModelSource& source, const comm::Mesh& mesh,
                           comm::Watchdog& watchdog) {
  std::optional<engine::Instance> instance;
  mesh.world.together("set up the check", [&] {
    load_model(instance, config, gates, mesh, engine::Use::kManyRows, source, watchdog);
  });
  model::Context ctx = instance->context();
  ctx.batch.dropless = true;
  const data::MicroBatch batch = probe(config);
  std::vector<float> result;
  engine::forward_all(*instance, ctx, std::span(&batch, 1), [&](std::size_t, const Tensor& hidden) {
    result = instance->transformer.head().log_probs(ctx, hidden).logprob;
  });
  return result;
}

/// How far log-probabilities may be off on average, in nats: what rounding does and errors do not.
double bound_of(const ConvertInputs& inputs) {
  constexpr double kExact = 1e-6, kSixteenBits = 0.1, kInt8 = 0.25, kInt4 = 1.0;
  if (const auto quantize = inputs.config.convert.quantize) {
    return quantize == DType::kInt8 ? kInt8 : kInt4;
  }
  return dtype_of(inputs) == DType::kF32 ? kExact : kSixteenBits;
}

// By rank 0. What cannot be removed stays: the message says that it is of no use.
void remove_made(const ConvertInputs& inputs, const fs::path& made, const comm::Mesh& mesh) {
  if (!mesh.world.is_root()) {
    return;
  }
  try {
    if (inputs.to_folder) {
      hf::clear_written(made);
    } else {
      fs::remove_all(made);
      fs::remove(inputs.out / "latest");
    }
  } catch (const std::exception& error) {
    log::warn(fmt::format("{}: remove it: {}", made.string(), error.what()));
  }
}

/// What the copy computes; a damaged one is removed. Collective over the mesh.
std::vector<float> compute_copy(const ConvertInputs& inputs, const fs::path& made,
                                const comm::Mesh& mesh, comm::Watchdog& watchdog) {
  config::Config stored = inputs.config;
  stored.run.quantize = inputs.config.convert.quantize;
  try {
    checkpoint::Catalog catalog;
    checkpoint::read_once(catalog, mesh.world, "open the copy", [&] { catalog.model(made); });
    return compute(stored, inputs.gates, catalog.model(made), mesh, watchdog);
  } catch (const comm::AgreedError& error) {
    if (error.code() != Exit::kBadData) {
      throw;
    }
    remove_made(inputs, made, mesh);
    throw comm::AgreedError(
        error.code(), fmt::format("the copy cannot be read back, and is removed: {}", error.what()),
        error.where());
  }
}

/// Throws kMismatch if the two models do not compute the same, as far as what is stored lets them.
/// Collective over the mesh.
void compare(const ConvertInputs& inputs, checkpoint::ModelSource& source, const fs::path& made,
             const comm::Mesh& mesh, comm::Watchdog& watchdog) {
  const std::vector<float> was = compute(inputs.config, inputs.gates, source, mesh, watchdog);
  const std::vector<float> is = compute_copy(inputs, made, mesh, watchdog);
  double differences = 0.0, number = 0.0;
  for (std::size_t i = 0; i < was.size(); ++i) {
    differences += std::abs(static_cast<double>(was[i]) - static_cast<double>(is[i]));
    number += 1.0;
  }
  mesh.world.sum({differences, number});
  const double mean = differences / std::max(1.0, number);
  const double bound = bound_of(inputs);
  log::print(fmt::format("check: log-probabilities of {} tokens differ by {:.2g} nats on average",
                         probe(inputs.config).counted(), mean));
  if (!(mean <= bound)) {
    remove_made(inputs, made, mesh);
    throw comm::AgreedError(
        Exit::kMismatch,
        fmt::format("{} does not compute what {} does: log-probabilities differ by {:.2g} nats on "
                    "average, more than {}; it is removed",
                    made.string(), inputs.source.string(), mean, bound));
  }
}

}  // namespace

void check_copy(const ConvertInputs& inputs, checkpoint::ModelSource& source, const fs::path& made,
                const comm::Mesh& mesh, comm::Watchdog& watchdog) {
  watchdog.loading();
  try {
    compare(inputs, source, made, mesh, watchdog);
  } catch (const comm::AgreedError& error) {
    if (error.code() == Exit::kTerminated) {
      remove_made(inputs, made, mesh);  // nobody has checked it
    }
    const std::array theirs = {Exit::kBadData, Exit::kMismatch, Exit::kTerminated};
    if (std::find(theirs.begin(), theirs.end(), error.code()) != theirs.end()) {
      throw;
    }
    throw comm::AgreedError(
        error.code(),
        fmt::format("{} is complete, but could not be compared with the original: {}; use it as it "
                    "is, or remove it and run this again",
                    made.string(), error.what()),
        error.where());
  }
}

}  // namespace moesaic::cli
