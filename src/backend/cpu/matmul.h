#pragma once

#include <cstdint>
#include <memory>

#include "backend/backend.h"

namespace moesaic::cpu {

/// Dense matrix products through oneDNN; primitives are made once for each shape and kept.
class Matmul {
 public:
  Matmul();
  ~Matmul();
  Matmul(const Matmul&) = delete;
  Matmul& operator=(const Matmul&) = delete;

  /// See Backend::matmul. Tensors of two dims.
  void run(const Tensor& a, Transpose ta, const Tensor& b, Transpose tb, const Tensor& c,
           Write write);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace moesaic::cpu
