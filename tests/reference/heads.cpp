#include "reference/heads.h"

#include <cmath>

#include "reference/norm.h"

namespace moesaic::reference {
namespace {

std::int64_t rows_of(View x, const Groups& groups) { return std::ssize(x) / groups.row; }

Vector group_of(View x, const Groups& groups, std::int64_t row, std::int64_t g) {
  const auto begin = x.begin() + row * groups.row + groups.first + g * groups.stride;
  return {begin, begin + groups.width};
}

}  // namespace

Vector plain_frequencies(std::int64_t width, double theta) {
  Vector frequency;
  for (std::int64_t i = 0; i < width / 2; ++i) {
    frequency.push_back(
        std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(width)));
  }
  return frequency;
}

Vector rope(View x, const Groups& groups, IndexView position, const Rotation& rotation) {
  Vector y(x.begin(), x.end());
  const std::int64_t half = groups.width / 2;
  for (std::int64_t t = 0; t < rows_of(x, groups); ++t) {
    for (std::int64_t g = 0; g < groups.groups; ++g) {
      const std::int64_t start = t * groups.row + groups.first + g * groups.stride;
      for (std::int64_t i = 0; i < half; ++i) {
        const double turn = static_cast<double>(position[t]) * rotation.frequency[i];
        const double angle = rotation.inverse ? -turn : turn;
        const std::int64_t a = start + (rotation.interleave ? 2 * i : i);
        const std::int64_t b = start + (rotation.interleave ? 2 * i + 1 : i + half);
        y[a] = rotation.magnitude * (x[a] * std::cos(angle) - x[b] * std::sin(angle));
        y[b] = rotation.magnitude * (x[b] * std::cos(angle) + x[a] * std::sin(angle));
      }
    }
  }
  return y;
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
