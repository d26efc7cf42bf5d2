#pragma once

#include <memory>

#include "backend/backend.h"

namespace moesaic::cpu {

/// Whether this processor has matrix units for bf16 and the system lets programs use them.
bool matrix_units_are_usable();

/// Products of bf16 matrices through oneDNN, which knows the matrix units (AMX) of processors that
/// have them. Primitives are made once for each shape and kept.
class OneDnn {
 public:
  OneDnn();
  ~OneDnn();
  OneDnn(const OneDnn&) = delete;
  OneDnn& operator=(const OneDnn&) = delete;

  /// See Backend::matmul. bf16 tensors of two dims, none of which is 0.
  void run(const Tensor& a, Transpose ta, const Tensor& b, Transpose tb, const Tensor& c,
           Write write);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace moesaic::cpu
