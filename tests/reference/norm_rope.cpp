#include "reference/norm_rope.h"

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

Vector rope(View x, std::int64_t heads, std::int64_t all_heads, std::int64_t head_dim,
            IndexView position, double theta, bool inverse) {
  Vector y(x.begin(), x.end());
  const std::int64_t half = head_dim / 2;
  for (std::int64_t t = 0; t < std::ssize(position); ++t) {
    for (std::int64_t h = 0; h < heads; ++h) {
      for (std::int64_t i = 0; i < half; ++i) {
        const double exponent = -2.0 * static_cast<double>(i) / static_cast<double>(head_dim);
        const double forward = static_cast<double>(position[t]) * std::pow(theta, exponent);
        const double angle = inverse ? -forward : forward;
        const std::int64_t a = (t * all_heads + h) * head_dim + i;
        const std::int64_t b = a + half;
        y[a] = x[a] * std::cos(angle) - x[b] * std::sin(angle);
        y[b] = x[b] * std::cos(angle) + x[a] * std::sin(angle);
      }
    }
  }
  return y;
}

}  // namespace moesaic::reference
