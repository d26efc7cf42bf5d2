#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <utility>

#include "config/config.h"
#include "plan/layout.h"

namespace moesaic::plan {

/// Bytes of one rank's process beside the tensors of balanced experts (README.md says where the
/// numbers come from).
struct ProcessMemory {
  double uneven = 0.0;   // rows of experts above balance
  double between = 0.0;  // free memory between the blocks of the memory pool
  double program = 0.0;  // pages of the program and its libraries
  double mpi = 0.0;
  double threads = 0.0;  // their buffers
  double hdf5 = 0.0;     // open files: corpora and trace
  double batches = 0.0;  // tokens of this step and of the next one
  double sums = 0.0;     // copies of gradients that are summed at the same time
  double saving = 0.0;   // a checkpoint, by the HDF5 thread, which has free memory of its own

  std::array<std::pair<std::string_view, double>, 9> classes() const;
};

/// Bytes of tensors on the rank, from which the rest follows.
struct TensorBytes {
  double expert_gradients = 0.0, other_gradients = 0.0;
  double largest = 0.0;  // slice of a public tensor, fp32
  double blocks = 0.0;   // of a checkpoint; no bytes, their number
  double passing = 0.0;  // what is not there from one step to the next
  double rows = 0.0;     // of these: what grows with the rows that the rank's experts get
};

/// Bytes on one rank of a stage; the config must be resolved.
ProcessMemory process_memory(const config::Config& config, const Layout& layout, std::int64_t stage,
                             const TensorBytes& tensors);

/// Bytes of the buffer that a thread's products use (gemm_scratch of the backend).
constexpr double kProductBuffer = 4.0 * ((1 << 18) + (1 << 16) + (1 << 13));

}  // namespace moesaic::plan
