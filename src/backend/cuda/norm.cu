// Root-mean-square norm of rows:  r = 1 / sqrt(mean(x^2) + eps),  y = x r g.
// Backward, with a = dy g and c = mean(a x):  dx = r (a - x r^2 c),  dg += dy x r.
#include <algorithm>

#include "backend/cuda/choices.h"
#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/device/rows.cuh"
#include "backend/cuda/partial_sums.h"

namespace moesaic::cuda {
namespace {

struct NormRows {
  const float* x;
  const float* weight;
  std::int64_t rows;
  int dim;
};

// The first columns stay in registers; what is beyond is read again.
template <class Team, class A>
__global__ void __launch_bounds__(Team::kBlock)
    norm_rows(NormRows of, float eps, A* y, float* rstd) {
  const std::int64_t t = Team::team();
  if (t >= of.rows) {
    return;
  }
  const float* const x = of.x + t * of.dim;
  typename Team::Values kept;
  typename Team::Values g;
  Team::load(x, of.dim, kept);
  Team::load(of.weight, of.dim, g);
  float squares = 0.0F;
  Team::each([&](int c, int j) { squares += kept[c][j] * kept[c][j]; });
  for (int at = Team::kSpan; at < of.dim; at += Team::kSpan) {
    typename Team::Values more;
    Team::load(x + at, of.dim - at, more);
    Team::each([&](int c, int j) { squares += more[c][j] * more[c][j]; });
  }
  const float r = 1.0F / sqrtf(Team::sum(squares) / static_cast<float>(of.dim) + eps);
  if (Team::member() == 0) {
    rstd[t] = r;
  }
  for (int at = 0; at < of.dim; at += Team::kSpan) {
    if (at > 0) {
      Team::load(x + at, of.dim - at, kept);
      Team::load(of.weight + at, of.dim - at, g);
    }
    Team::each([&](int c, int j) { g[c][j] *= kept[c][j] * r; });
    Team::store(y + t * of.dim + at, of.dim - at, g);
  }
}

struct NormGradients {
  const float* dy;
  const float* rstd;
  float* dx;
  float* parts;  // (teams, dim): sums for dweight over each team's rows; or null
  std::int64_t teams;
};

// Rows of at most a span of columns. A team takes neighbouring rows.
template <class Team>
__global__ void __launch_bounds__(Team::kBlock)
    norm_rows_backward(NormRows of, NormGradients gradients) {
  const std::int64_t team = Team::team();
  if (team >= gradients.teams) {
    return;
  }
  typename Team::Values sums = {};
  typename Team::Values g;
  Team::load(of.weight, of.dim, g);
  const std::int64_t end = of.rows * (team + 1) / gradients.teams;
  for (std::int64_t t = of.rows * team / gradients.teams; t < end; ++t) {
    typename Team::Values x;
    typename Team::Values a;
    Team::load(of.x + t * of.dim, of.dim, x);
    Team::load(gradients.dy + t * of.dim, of.dim, a);
    const float r = gradients.rstd[t];
    float dot = 0.0F;
    Team::each([&](int c, int j) {
      sums[c][j] += a[c][j] * x[c][j] * r;
      a[c][j] *= g[c][j];
      dot += a[c][j] * x[c][j];
    });
    const float mean = Team::sum(dot) / static_cast<float>(of.dim) * r * r;
    Team::each([&](int c, int j) { a[c][j] = (a[c][j] - x[c][j] * mean) * r; });
    Team::store(gradients.dx + t * of.dim, of.dim, a);
  }
  if (gradients.parts != nullptr) {
    Team::store(gradients.parts + team * of.dim, of.dim, sums);
  }
}

// Wider rows, in two steps: c r^2 of each row, and then spans of columns.
template <class Team>
__global__ void __launch_bounds__(Team::kBlock)
    wide_row_means(NormRows of, NormGradients gradients, float* means) {
  const std::int64_t t = Team::team();
  float dot = 0.0F;
  for (int at = 0; at < of.dim; at += Team::kSpan) {
    typename Team::Values x;
    typename Team::Values d;
    typename Team::Values g;
    Team::load(of.x + t * of.dim + at, of.dim - at, x);
    Team::load(gradients.dy + t * of.dim + at, of.dim - at, d);
    Team::load(of.weight + at, of.dim - at, g);
    Team::each([&](int c, int j) { dot += d[c][j] * g[c][j] * x[c][j]; });
  }
  const float r = gradients.rstd[t];
  const float mean = Team::sum(dot) / static_cast<float>(of.dim) * r * r;
  if (Team::member() == 0) {
    means[t] = mean;
  }
}

template <class Team>
__global__ void __launch_bounds__(Team::kBlock)
    wide_rows_backward(NormRows of, NormGradients gradients, const float* means) {
  const std::int64_t team = Team::team();
  if (team >= gradients.teams) {
    return;
  }
  const int at = static_cast<int>(blockIdx.y) * Team::kSpan;
  typename Team::Values sums = {};
  typename Team::Values g;
  Team::load(of.weight + at, of.dim - at, g);
  const std::int64_t end = of.rows * (team + 1) / gradients.teams;
  for (std::int64_t t = of.rows * team / gradients.teams; t < end; ++t) {
    typename Team::Values x;
    typename Team::Values d;
    Team::load(of.x + t * of.dim + at, of.dim - at, x);
    Team::load(gradients.dy + t * of.dim + at, of.dim - at, d);
    const float r = gradients.rstd[t];
    const float mean = means[t];
    Team::each([&](int c, int j) {
      sums[c][j] += d[c][j] * x[c][j] * r;
      d[c][j] = (d[c][j] * g[c][j] - x[c][j] * mean) * r;
    });
    Team::store(gradients.dx + t * of.dim + at, of.dim - at, d);
  }
  if (gradients.parts != nullptr) {
    Team::store(gradients.parts + team * of.dim + at, of.dim - at, sums);
  }
}

constexpr int kNarrow = RowTeam<kWarp, 2, true>::kSpan;
constexpr int kKept = RowTeam<2 * kRowThreads, 2, true>::kSpan;

// A warp or a block a row, so that a row of up to kKept columns is in registers.
template <class Launch>
void with_team(std::int64_t dim, bool vectors, const Launch& launch_for) {
  with_flag(vectors, [&](auto aligned) {
    if (dim <= kNarrow) {
      launch_for(RowTeam<kWarp, 2, aligned()>{});
    } else if (dim <= RowTeam<kRowThreads, 1, true>::kSpan) {
      launch_for(RowTeam<kRowThreads, 1, aligned()>{});
    } else if (dim <= RowTeam<2 * kRowThreads, 1, true>::kSpan) {
      launch_for(RowTeam<2 * kRowThreads, 1, aligned()>{});
    } else {
      launch_for(RowTeam<2 * kRowThreads, 2, aligned()>{});
    }
  });
}

void launch_wide_backward(cudaStream_t stream, const NormRows& of, const NormGradients& gradients,
                          bool vectors, float* means) {
  with_flag(vectors, [&](auto aligned) {
    using Team = RowTeam<kRowThreads, 1, aligned()>;
    launch(stream, wide_row_means<Team>, blocks_of<Team>(of.rows), Team::kBlock, Team::kSharedBytes,
           of, gradients, means);
    launch(stream, wide_rows_backward<Team>, blocks_of<Team>(gradients.teams, of.dim), Team::kBlock,
           0, of, gradients, means);
  });
}

// Each leaves a row of sums: few beside the rows themselves, and enough for every device.
std::int64_t teams_for(std::int64_t rows, std::int64_t dim) {
  return std::min<std::int64_t>(rows, dim <= kNarrow ? 2048 : 512);
}

}  // namespace

void CudaBackend::rms_norm(const Tensor& x, const Tensor& weight, float eps, const Tensor& y,
                           const Tensor& rstd) {
  const NormRows of{device<float>(x), device<float>(weight), x.dim(0), static_cast<int>(x.dim(1))};
  with_type(y.dtype(), [&](auto type) {
    using A = decltype(type);
    A* const out = device<A>(y);
    with_team(of.dim, takes_vectors(of.dim, of.x, of.weight, out), [&](auto team) {
      using Team = decltype(team);
      launch(stream(), norm_rows<Team, A>, blocks_of<Team>(of.rows), Team::kBlock,
             Team::kSharedBytes, of, eps, out, device<float>(rstd));
    });
  });
}

void CudaBackend::rms_norm_backward(const Tensor& dy, const Tensor& x, const Tensor& weight,
                                    const Tensor& rstd, const Tensor& dx, const Tensor& dweight) {
  const NormRows of{device<float>(x), device<float>(weight), x.dim(0), static_cast<int>(x.dim(1))};
  const std::int64_t teams = teams_for(of.rows, of.dim);
  const Tensor parts = dweight.defined() ? empty(DType::kF32, {teams, of.dim}) : Tensor();
  const NormGradients gradients{device<float>(dy), device<float>(rstd), device<float>(dx),
                                dweight.defined() ? device<float>(parts) : nullptr, teams};
  const bool vectors = takes_vectors(of.dim, of.x, of.weight, gradients.dy, gradients.dx);
  if (of.dim > kKept) {
    const Tensor means = empty(DType::kF32, {of.rows});
    launch_wide_backward(stream(), of, gradients, vectors, device<float>(means));
  } else {
    with_team(of.dim, vectors, [&](auto team) {
      using Team = decltype(team);
      launch(stream(), norm_rows_backward<Team>, blocks_of<Team>(teams), Team::kBlock,
             Team::kSharedBytes, of, gradients);
    });
  }
  if (dweight.defined()) {
    add_partial_sums(stream(), device<float>(parts), teams, of.dim, device<float>(dweight));
  }
}

}  // namespace moesaic::cuda
