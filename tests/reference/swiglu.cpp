#include "reference/swiglu.h"

#include <cmath>

namespace moesaic::reference {
namespace {

double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

}  // namespace

Vector swiglu(View gate_up, std::int64_t width) {
  Vector y;
  for (std::int64_t row = 0; row < std::ssize(gate_up); row += 2 * width) {
    for (std::int64_t i = 0; i < width; ++i) {
      const double gate = gate_up[row + i];
      y.push_back(gate * sigmoid(gate) * gate_up[row + width + i]);
    }
  }
  return y;
}

Vector swiglu_backward(View dy, View gate_up, std::int64_t width) {
  Vector out(gate_up.size());
  for (std::int64_t row = 0; row < std::ssize(gate_up); row += 2 * width) {
    for (std::int64_t i = 0; i < width; ++i) {
      const double gate = gate_up[row + i];
      const double up = gate_up[row + width + i];
      const double s = sigmoid(gate);
      const double grad = dy[row / 2 + i];
      out[row + i] = grad * up * (s + gate * s * (1.0 - s));
      out[row + width + i] = grad * gate * s;
    }
  }
  return out;
}

}  // namespace moesaic::reference
