// Root-mean-square norm of groups of a row, with r = 1 / sqrt(squares / n + eps):  y = x r g;
// backward, with a = dy g and dots = sum(a x):  dx = r (a - x r^2 dots / n),  dg += dy x r.
#include <algorithm>

#include "backend/cuda/choices.h"
#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/device/groups.cuh"
#include "backend/cuda/device/rows.cuh"
#include "backend/cuda/partial_sums.h"

namespace moesaic::cuda {
namespace {

// All groups of all rows, in order.
struct Norm {
  ColumnGroups groups;
  std::int64_t count;  // of groups, over all rows
  const float* weight;
  const float* squares;
  float elements, eps;

  __device__ __forceinline__ std::int64_t at(std::int64_t i) const {
    if (count <= 0xffffffffU) {  // a division of 32 bits is several times as fast
      const auto index = static_cast<std::uint32_t>(i);
      const auto of_row = static_cast<std::uint32_t>(groups.groups);
      return groups.at(index / of_row, static_cast<int>(index % of_row));
    }
    return groups.at(i / groups.groups, static_cast<int>(i % groups.groups));
  }
  __device__ __forceinline__ float reciprocal_root(std::int64_t i) const {
    return 1.0F / sqrtf(squares[i] / elements + eps);
  }
};

// sums[i] = the sum over group i of x^2, or with dy of dy weight x. A team whose group does not
// exist helps with the shuffles.
template <class Team, class A>
__global__ void __launch_bounds__(kRowThreads)
    group_sums(Norm norm, const A* dy, const A* x, float* sums) {
  const std::int64_t i = Team::team();
  const bool exists = i < norm.count;
  const std::int64_t begin = exists ? norm.at(i) : 0;
  const int width = exists ? norm.groups.width : 0;
  float sum = 0.0F;
  for (int at = 0; at < width; at += Team::kSpan) {
    typename Team::Values v;
    Team::load(x + begin + at, width - at, v);
    if (dy == nullptr) {
      Team::each([&](int c, int j) { sum += v[c][j] * v[c][j]; });
    } else {
      typename Team::Values d;
      typename Team::Values g;
      Team::load(dy + begin + at, width - at, d);
      Team::load(norm.weight + at, width - at, g);
      Team::each([&](int c, int j) { sum += d[c][j] * g[c][j] * v[c][j]; });
    }
  }
  sum = Team::sum(sum);
  if (exists && Team::member() == 0) {
    sums[i] = sum;
  }
}

// A team has a span of the columns of a group.
template <class Team, class A>
__global__ void __launch_bounds__(kRowThreads) norm_groups(Norm norm, const A* x, A* y) {
  const std::int64_t i = Team::team();
  if (i >= norm.count) {
    return;
  }
  const int column = static_cast<int>(blockIdx.y) * Team::kSpan;
  const int width = norm.groups.width - column;
  const std::int64_t at = norm.at(i) + column;
  typename Team::Values v;
  typename Team::Values g;
  Team::load(x + at, width, v);
  Team::load(norm.weight + column, width, g);
  const float r = norm.reciprocal_root(i);
  Team::each([&](int c, int j) { v[c][j] *= r * g[c][j]; });
  Team::store(y + at, width, v);
}

struct NormGradients {
  const float* dots;
  float* parts;  // (teams, width): sums for dweight over each team's groups; or null
  std::int64_t teams;
};

// A team takes neighbouring groups, and a span of their columns.
template <class Team, class A>
__global__ void __launch_bounds__(kRowThreads)
    norm_groups_backward(Norm norm, NormGradients gradients, A* dy, const A* x) {
  const std::int64_t team = Team::team();
  if (team >= gradients.teams) {
    return;
  }
  const int column = static_cast<int>(blockIdx.y) * Team::kSpan;
  const int width = norm.groups.width - column;
  typename Team::Values sums = {};
  typename Team::Values g;
  Team::load(norm.weight + column, width, g);
  const std::int64_t end = norm.count * (team + 1) / gradients.teams;
  for (std::int64_t i = norm.count * team / gradients.teams; i < end; ++i) {
    const std::int64_t at = norm.at(i) + column;
    typename Team::Values v;
    typename Team::Values d;
    Team::load(x + at, width, v);
    Team::load(dy + at, width, d);
    const float r = norm.reciprocal_root(i);
    const float mean = gradients.dots[i] / norm.elements * r * r;
    Team::each([&](int c, int j) {
      sums[c][j] += d[c][j] * v[c][j] * r;
      d[c][j] = (d[c][j] * g[c][j] - v[c][j] * mean) * r;
    });
    Team::store(dy + at, width, d);
  }
  if (gradients.parts != nullptr) {
    Team::store(gradients.parts + team * norm.groups.width + column, width, sums);
  }
}

// Heads take a few lanes each, wide groups a block.
template <class Launch>
void with_team(int width, bool vectors, const Launch& launch_for) {
  with_flag(vectors, [&](auto aligned) {
    if (width <= RowTeam<8, 2, true>::kSpan) {
      launch_for(RowTeam<8, 2, aligned()>{});
    } else if (width <= RowTeam<kWarp, 2, true>::kSpan) {
      launch_for(RowTeam<kWarp, 2, aligned()>{});
    } else {
      launch_for(RowTeam<kRowThreads, 1, aligned()>{});
    }
  });
}

Norm norm_of(const Tensor& x, const RowGroups& groups) {
  return {.groups = groups_of(x, groups),
          .count = x.dim(0) * groups.groups,
          .weight = nullptr,
          .squares = nullptr,
          .elements = 0.0F,
          .eps = 0.0F};
}

Norm norm_of(const Tensor& x, const RowGroups& groups, const Tensor& squares, float count,
             float eps, const Tensor& weight) {
  Norm norm = norm_of(x, groups);
  norm.weight = device<float>(weight);
  norm.squares = device<float>(squares);
  norm.elements = count;
  norm.eps = eps;
  return norm;
}

// Each leaves a row of sums: few beside the groups themselves, and enough for every device.
std::int64_t teams_for(std::int64_t count, int width) {
  const std::int64_t most = width <= RowTeam<8, 2, true>::kSpan       ? 8192
                            : width <= RowTeam<kWarp, 2, true>::kSpan ? 2048
                                                                      : 512;
  return std::min(count, most);
}

}  // namespace

void CudaBackend::group_squares(const Tensor& x, const RowGroups& groups, const Tensor& squares) {
  const Norm norm = norm_of(x, groups);
  with_type(x.dtype(), [&](auto type) {
    using A = decltype(type);
    const A* const in = device<A>(x);
    with_team(norm.groups.width, groups_take_vectors(norm.groups, in), [&](auto team) {
      using Team = decltype(team);
      launch(stream(), group_sums<Team, A>, blocks_of<Team>(norm.count), kRowThreads,
             Team::kSharedBytes, norm, nullptr, in, device<float>(squares));
    });
  });
}

void CudaBackend::group_norm(const Tensor& x, const RowGroups& groups, const Tensor& squares,
                             float count, float eps, const Tensor& weight, const Tensor& y) {
  const Norm norm = norm_of(x, groups, squares, count, eps, weight);
  with_type(x.dtype(), [&](auto type) {
    using A = decltype(type);
    const A* const in = device<A>(x);
    A* const out = device<A>(y);
    const bool vectors = groups_take_vectors(norm.groups, in, out, norm.weight);
    with_team(norm.groups.width, vectors, [&](auto team) {
      using Team = decltype(team);
      launch(stream(), norm_groups<Team, A>, blocks_of<Team>(norm.count, norm.groups.width),
             kRowThreads, 0, norm, in, out);
    });
  });
}

void CudaBackend::group_dots(const Tensor& dy, const Tensor& x, const RowGroups& groups,
                             const Tensor& weight, const Tensor& dots) {
  Norm norm = norm_of(x, groups);
  norm.weight = device<float>(weight);
  with_type(x.dtype(), [&](auto type) {
    using A = decltype(type);
    const A* const gradient = device<A>(dy);
    const A* const in = device<A>(x);
    const bool vectors = groups_take_vectors(norm.groups, gradient, in, norm.weight);
    with_team(norm.groups.width, vectors, [&](auto team) {
      using Team = decltype(team);
      launch(stream(), group_sums<Team, A>, blocks_of<Team>(norm.count), kRowThreads,
             Team::kSharedBytes, norm, gradient, in, device<float>(dots));
    });
  });
}

void CudaBackend::group_norm_backward(const Tensor& dy, const Tensor& x, const RowGroups& groups,
                                      const Tensor& squares, const Tensor& dots, float count,
                                      float eps, const Tensor& weight, const Tensor& dweight) {
  const Norm norm = norm_of(x, groups, squares, count, eps, weight);
  const int width = norm.groups.width;
  const std::int64_t teams = teams_for(norm.count, width);
  const Tensor parts = dweight.defined() ? empty(DType::kF32, {teams, width}) : Tensor();
  const NormGradients gradients{device<float>(dots),
                                dweight.defined() ? device<float>(parts) : nullptr, teams};
  with_type(x.dtype(), [&](auto type) {
    using A = decltype(type);
    A* const gradient = device<A>(dy);
    const A* const in = device<A>(x);
    with_team(width, groups_take_vectors(norm.groups, gradient, in, norm.weight), [&](auto team) {
      using Team = decltype(team);
      launch(stream(), norm_groups_backward<Team, A>, blocks_of<Team>(teams, width), kRowThreads, 0,
             norm, gradients, gradient, in);
    });
  });
  if (dweight.defined()) {
    add_partial_sums(stream(), device<float>(parts), teams, width, device<float>(dweight));
  }
}

}  // namespace moesaic::cuda
