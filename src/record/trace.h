#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace moesaic::record {

/// The axes and attributes of a trace. A later run may have more or fewer ranks and experts, and
/// other tasks and corpora; all else is fixed for the file's life.
struct TraceAxes {
  std::vector<std::int64_t> moe_layers;  // layer_index of each entry of /layer
  std::int64_t experts = 0;
  std::int64_t choices = 0;  // of a token at most
  std::vector<std::string> phases, tasks, corpora;
  std::vector<std::string> groups;  // of ranks that exchange tensors
  std::int64_t ranks = 1;
  std::map<std::string, std::string> attributes;  // config, hashes, layout, versions, job id, ...
  // What is counted once: of the rank where it is largest, and of all ranks.
  std::map<std::string, std::vector<std::int64_t>> numbers = {};
};

/// One row: what a step (or a batch of score) did. L MoE layers, E experts, P phases, K tasks,
/// C choices, R ranks; arrays are row-major.
struct TraceRow {
  std::int64_t step = 0;
  double loss = 0, lm_loss = 0, grad_norm = 0, lr = 0;
  // Training alone measures these; else NaN.
  double token_accuracy = std::numeric_limits<double>::quiet_NaN();
  double entropy = std::numeric_limits<double>::quiet_NaN();
  std::int64_t tokens = 0, targets = 0;  // routed positions, counted targets
  double seconds = 0, unix_time = 0;
  std::int64_t peak_memory = 0;  // bytes, max over ranks
  std::vector<double> aux_loss, z_loss, gate_entropy, load_max_over_mean, utilisation;  // [L]
  std::vector<std::int64_t> expert_tokens, expert_dropped, expert_rerouted;             // [L,E]
  std::vector<std::int64_t> expert_processed, expert_slots;                             // [L,E]
  std::vector<std::int64_t> expert_state;        // [L,E]: 0 absent 1 regular 2 spare 3 retired
  std::vector<std::int64_t> task_expert_tokens;  // [L,K,E]
  std::vector<std::int64_t> task_choice_tokens;  // [L,K,C] tokens that chose 1 .. C experts
  std::vector<std::int64_t> task_tokens;         // [K]
  std::vector<double> time, time_mean;           // [P] seconds: slowest rank, mean over ranks
  std::vector<double> rank_seconds;              // [R] seconds outside waiting
  std::vector<double> traffic;                   // [G] bytes sent in each group, sum over ranks
  double bubble = 0;                             // share of the step that ranks wait for stages
};

struct EvalRow {
  std::int64_t step = 0;
  double loss = 0, bits_per_byte = 0;
  std::vector<double> loss_by_task, loss_by_corpus;  // NaN where nothing was counted
};

/// About the bytes of a file of so many rows.
double trace_bytes(const TraceAxes& axes, std::int64_t rows);

/// Writes a trace from one rank. Rows are kept in memory and appended at each flush, between which
/// the file is closed and holds no lock, so that a running trace opens in h5py, pandas and xarray.
class TraceWriter {
 public:
  /// Starts a new file (an existing one of another run is set aside with a notice).
  static TraceWriter create(const std::filesystem::path& file, const TraceAxes& axes,
                            double flush_seconds);
  /// Continues a file after a restart: rows after `last_step` are cut. The axes must match, except
  /// for ranks, experts, tasks and corpora: what has such an axis grows by those that are new, with
  /// NaN or 0 elsewhere.
  /// A file that is missing is created.
  static TraceWriter resume(const std::filesystem::path& file, const TraceAxes& axes,
                            double flush_seconds, std::int64_t last_step);
  TraceWriter(TraceWriter&&) noexcept;
  TraceWriter& operator=(TraceWriter&&) noexcept;
  ~TraceWriter();

  // They append in memory, and flush if the last flush is flush_seconds old. A reader in the way
  // makes the rows wait for the next flush.
  void add(const TraceRow& row);
  void add(const EvalRow& row);
  void event(std::int64_t step, const std::string& kind, const std::string& message);

  /// Writes what is kept. Returns false (rows kept) if the file is locked by a reader.
  bool flush();
  /// Writes what is kept, at last in spite of a reader.
  void write_all();

 private:
  struct State;
  explicit TraceWriter(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

/// Every problem of a trace, one line each (empty: sound): steps without gaps or repeats, the
/// conservation laws of the counts, phases that sum to the seconds.
std::vector<std::string> verify_trace(const std::filesystem::path& file);

}  // namespace moesaic::record
