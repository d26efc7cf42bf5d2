#include "plan/process_memory.h"

#include <algorithm>

#include "config/layers.h"
#include "plan/context_traffic.h"
#include "plan/numbers.h"

namespace moesaic::plan {
namespace {

constexpr double kKib = 1024.0;
constexpr double kMib = 1024.0 * kKib;

// Measured: README.md says how.
constexpr double kProgram = 31.0 * kMib;
constexpr double kMpi = 3.0 * kMib;
constexpr double kFile = 0.6 * kMib;      // an open HDF5 file
constexpr double kReadBuffer = kMib;      // of HDF5
constexpr double kShards = 4.0;           // of a corpus that are open, of at most 16
constexpr double kSave = 4.0 * kMib;      // a save, whatever is saved
constexpr double kSavedBlock = 9 * kKib;  // and each of its blocks: header and manifest
constexpr double kUneven = 0.25;          // rows of the fullest rank above balance
constexpr double kBetween = 0.05;         // of what passes

// A bucket of gradients (model/parameter/buckets.cpp) is closed by the layer that fills it.
constexpr double kBucket = 16.0 * kMib;
constexpr double kAtOnce = 2.0;

constexpr double kTokenBytes = 21.0;  // of a MicroBatch: five int32 and a byte

// Copies of the buckets that are on their way, of gradients of so many bytes in so many layers.
double summed_at_once(double bytes, double layers) {
  return std::min(bytes, kAtOnce * (kBucket + bytes / std::max(1.0, layers)));
}

double sums_bytes(const Layout& layout, const Stage& s, const TensorBytes& tensors) {
  const double layers = real(s.dense + s.moe);
  return (layout.copies() > 1 ? summed_at_once(tensors.other_gradients, layers) : 0.0) +
         (layout.expert_copies() > 1 ? summed_at_once(tensors.expert_gradients, real(s.moe)) : 0.0);
}

// Buffers of products, and in training those of attention: gradients of all keys and values of a
// head.
double thread_bytes(const config::Config& config, const Layout& layout, bool training) {
  const config::Model& m = config.model;
  const double tokens = own_rows(layout, real(config.train.micro_batch * config.data.seq_len));
  const double heads =
      training ? tokens * real(config::key_width(m) + config::value_width(m)) : 0.0;
  return real(std::max<std::int64_t>(1, config.run.threads)) * (kProductBuffer + kFp32 * heads);
}

}  // namespace

std::array<std::pair<std::string_view, double>, 9> ProcessMemory::classes() const {
  return {{{"uneven loads", uneven},
           {"between blocks", between},
           {"program, libraries", program},
           {"MPI", mpi},
           {"threads", threads},
           {"HDF5", hdf5},
           {"batches", batches},
           {"gradients in sums", sums},
           {"saving", saving}}};
}

ProcessMemory process_memory(const config::Config& config, const Layout& layout, std::int64_t stage,
                             const TensorBytes& tensors) {
  const bool training = config.plan.job == "train";
  const Stage s = stage_of(config.model, layout, stage);
  const auto corpora = real(std::ssize(config.data.corpus) + std::ssize(config.data.eval_corpus));
  ProcessMemory process;
  if (layout.expert_ranks() > 1) {  // one rank has all choices, whoever they are
    process.uneven = kUneven * tensors.rows;
  }
  process.between = kBetween * (tensors.passing + process.uneven);
  process.program = kProgram;
  process.mpi = kMpi;
  process.threads = thread_bytes(config, layout, training);
  process.hdf5 = kReadBuffer + kFile * (1.0 + kShards * std::max(1.0, corpora));
  if (training) {
    const double tokens = real(micro_batches_per_rank(config.train, layout) *
                               config.train.micro_batch * config.data.seq_len);
    process.batches = 2.0 * kTokenBytes * tokens;
    process.sums = sums_bytes(layout, s, tensors);
    // Rank 0 has the manifest of all ranks. Values and both moments are blocks of their own.
    process.saving = kSave + kSavedBlock * tensors.blocks + tensors.largest;
  }
  return process;
}

}  // namespace moesaic::plan
