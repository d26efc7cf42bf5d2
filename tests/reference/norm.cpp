#include "reference/norm.h"

#include <algorithm>
#include <cmath>

namespace moesaic::reference {
namespace {

Vector group_of(View x, const Groups& groups, std::int64_t row, std::int64_t g) {
  const auto begin = x.begin() + row * groups.row + groups.first + g * groups.stride;
  return {begin, begin + groups.width};
}

}  // namespace

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

Vector group_norm(View x, const Groups& groups, View weight, double eps) {
  Vector y(x.begin(), x.end());
  for (std::int64_t t = 0; t < rows_of(x, groups); ++t) {
    for (std::int64_t g = 0; g < groups.groups; ++g) {
      const Vector normed = rms_norm(group_of(x, groups, t, g), weight, eps).y;
      std::copy(normed.begin(), normed.end(),
                y.begin() + t * groups.row + groups.first + g * groups.stride);
    }
  }
  return y;
}

GroupNormGradient group_norm_backward(View dy, View x, const Groups& groups, View weight,
                                      double eps) {
  GroupNormGradient out{Vector(dy.begin(), dy.end()), Vector(weight.size(), 0.0)};
  for (std::int64_t t = 0; t < rows_of(x, groups); ++t) {
    for (std::int64_t g = 0; g < groups.groups; ++g) {
      const RmsNormGradient one =
          rms_norm_backward(group_of(dy, groups, t, g), group_of(x, groups, t, g), weight, eps);
      std::copy(one.dx.begin(), one.dx.end(),
                out.dx.begin() + t * groups.row + groups.first + g * groups.stride);
      for (std::size_t i = 0; i < weight.size(); ++i) {
        out.dweight[i] += one.dweight[i];
      }
    }
  }
  return out;
}

}  // namespace moesaic::reference
