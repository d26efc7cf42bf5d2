#include "reference/activation.h"

#include <algorithm>
#include <cmath>

namespace moesaic::reference {
namespace {

double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

}  // namespace

Vector swiglu(View gate_up, std::int64_t width, double limit) {
  Vector y;
  for (std::int64_t row = 0; row < std::ssize(gate_up); row += 2 * width) {
    for (std::int64_t i = 0; i < width; ++i) {
      const double gate = gate_up[row + i];
      const double up = gate_up[row + width + i];
      const double g = std::min(gate, limit);
      y.push_back(limit == 0.0 ? gate * sigmoid(gate) * up
                               : (std::clamp(up, -limit, limit) + 1.0) * g * sigmoid(1.702 * g));
    }
  }
  return y;
}

Vector swiglu_backward(View dy, View gate_up, std::int64_t width, double limit) {
  Vector out(gate_up.size());
  for (std::int64_t row = 0; row < std::ssize(gate_up); row += 2 * width) {
    for (std::int64_t i = 0; i < width; ++i) {
      const double gate = gate_up[row + i];
      const double up = gate_up[row + width + i];
      const double grad = dy[row / 2 + i];
      const double slope = limit == 0.0 ? 1.0 : 1.702;
      const double g = limit == 0.0 ? gate : std::min(gate, limit);
      const double u = limit == 0.0 ? up : std::clamp(up, -limit, limit) + 1.0;
      const double s = sigmoid(slope * g);
      const bool gate_moves = limit == 0.0 || gate <= limit;
      const bool up_moves = limit == 0.0 || std::abs(up) <= limit;
      out[row + i] = gate_moves ? grad * u * (s + slope * g * s * (1.0 - s)) : 0.0;
      out[row + width + i] = up_moves ? grad * g * s : 0.0;
    }
  }
  return out;
}

}  // namespace moesaic::reference
