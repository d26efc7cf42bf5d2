#include "reference/attention_sinks.h"

#include <cmath>

namespace moesaic::reference {

Sunk add_sinks(View out, View lse, View sinks) {
  Sunk sunk{Vector(out.begin(), out.end()), Vector(lse.begin(), lse.end())};
  const std::size_t width = lse.empty() ? 0 : out.size() / lse.size();
  for (std::size_t i = 0; i < lse.size(); ++i) {
    const double whole = std::exp(lse[i]) + std::exp(sinks[i % sinks.size()]);
    sunk.lse[i] = std::log(whole);
    for (std::size_t c = 0; c < width; ++c) {
      sunk.out[i * width + c] *= std::exp(lse[i]) / whole;
    }
  }
  return sunk;
}

// A sink's probability p has the gradient p (0 - sum_j p_j dp_j), and sum_j p_j dp_j = dout . out.
Vector sinks_backward(View dout, View out, View lse, View sinks) {
  Vector gradient(sinks.size(), 0.0);
  const std::size_t width = lse.empty() ? 0 : out.size() / lse.size();
  for (std::size_t i = 0; i < lse.size(); ++i) {
    double dot = 0.0;
    for (std::size_t c = 0; c < width; ++c) {
      dot += dout[i * width + c] * out[i * width + c];
    }
    gradient[i % sinks.size()] -= std::exp(sinks[i % sinks.size()] - lse[i]) * dot;
  }
  return gradient;
}

}  // namespace moesaic::reference
