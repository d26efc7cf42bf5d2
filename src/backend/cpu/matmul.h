#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/instruction_set.h"
#include "backend/cpu/onednn.h"

namespace moesaic::cpu {

/// Products of matrices, shared out over threads. Every element of a result is one sum in a fixed
/// order, so the number of threads does not change it.
class Matmul {
 public:
  Matmul(int threads, const InstructionSet& set) : threads_(threads), set_(set) {
    if (set.matrix_units) {
      onednn_.emplace();
    }
  }

  /// See Backend::matmul. Tensors of two dims.
  void run(const Tensor& a, Transpose ta, const Tensor& b, Transpose tb, const Tensor& c,
           Write write);
  /// One product for each group: c (m, n) = op(a) op(b). Some may be empty.
  struct Group {
    Tensor a, b, c;
  };
  void run(std::span<const Group> groups, Transpose ta, Transpose tb, Write write);

 private:
  void run_in_pieces(const Tensor& a, Transpose ta, const Tensor& b, Transpose tb, const Tensor& c,
                     Write write);

  int threads_;
  InstructionSet set_;
  std::optional<OneDnn> onednn_;  // for bf16
};

}  // namespace moesaic::cpu
