#include "reference/norm.h"

#include <cmath>

namespace moesaic::reference {

RmsNorm rms_norm(View x, View weight, double eps) {
  const std::size_t dim = weight.size();
  RmsNorm out;
  for (std::size_t row = 0; row < x.size(); row += dim) {
    double squares = 0.0;
    for (std::size_t i = 0; i < dim; ++i) {
      squares += x[row + i] * x[row + i];
    }
    out.rstd.push_back(1.0 / std::sqrt(squares / static_cast<double>(dim) + eps));
    for (std::size_t i = 0; i < dim; ++i) {
      out.y.push_back(x[row + i] * out.rstd.back() * weight[i]);
    }
  }
  return out;
}

// With r = rstd: dr/dx_j = -r^3 x_j / dim, so dx = r g - x r^3 mean(g x) where g = dy weight.
RmsNormGradient rms_norm_backward(View dy, View x, View weight, double eps) {
  const std::size_t dim = weight.size();
  const Vector rstd = rms_norm(x, weight, eps).rstd;
  RmsNormGradient out{{}, Vector(dim, 0.0)};
  for (std::size_t row = 0; row < x.size(); row += dim) {
    const double r = rstd[row / dim];
    double projection = 0.0;
    for (std::size_t i = 0; i < dim; ++i) {
      projection += dy[row + i] * weight[i] * x[row + i] / static_cast<double>(dim);
    }
    for (std::size_t i = 0; i < dim; ++i) {
      out.dx.push_back(r * dy[row + i] * weight[i] - x[row + i] * r * r * r * projection);
      out.dweight[i] += dy[row + i] * x[row + i] * r;
    }
  }
  return out;
}

}  // namespace moesaic::reference
