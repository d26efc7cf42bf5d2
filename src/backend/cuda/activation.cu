// SwiGLU: y = g s(g) u with s the logistic function;
//   dg = dy u s(g) (1 + g (1 - s(g))),  du = dy g s(g).
// Clamped, as gpt-oss has it: with g and u clamped to limits, y = (u + 1) g s(1.702 g).
#include "backend/cuda/choices.h"
#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/device/rows.cuh"

namespace moesaic::cuda {
namespace {

__device__ __forceinline__ float logistic(float x) { return 1.0F / (1.0F + expf(-x)); }

struct GateUp {
  float gate, up;
};

struct PlainGate {
  __device__ __forceinline__ float forward(float gate, float up) const {
    return gate * logistic(gate) * up;
  }
  __device__ __forceinline__ GateUp backward(float d, float gate, float up) const {
    const float s = logistic(gate);
    return {d * up * s * (1.0F + gate * (1.0F - s)), d * gate * s};
  }
};

struct ClampedGate {
  static constexpr float kSlope = 1.702F;

  __device__ __forceinline__ float forward(float gate, float up) const {
    const float g = below(gate);
    return g * logistic(g * kSlope) * (-below(-below(up)) + 1.0F);
  }
  __device__ __forceinline__ GateUp backward(float d, float gate, float up) const {
    const float g = below(gate);
    const float u = -below(-below(up));
    const float s = logistic(g * kSlope);
    const float dgate = d * (u + 1.0F) * s * (1.0F + g * kSlope * (1.0F - s));
    return {gate > g ? 0.0F : dgate, u != up ? 0.0F : d * g * s};
  }
  __device__ __forceinline__ float below(float x) const { return x > limit ? limit : x; }

  float limit;
};

// A warp has a span of the columns of a row.
template <class Team, class Gate, class A>
__global__ void __launch_bounds__(kRowThreads)
    gate_spans(Gate kind, const A* gate_up, A* y, std::int64_t rows, int hidden) {
  const std::int64_t r = Team::team();
  if (r >= rows) {
    return;
  }
  const int column = static_cast<int>(blockIdx.y) * Team::kSpan;
  const A* const in = gate_up + r * 2 * hidden + column;
  typename Team::Values gate;
  typename Team::Values up;
  Team::load(in, hidden - column, gate);
  Team::load(in + hidden, hidden - column, up);
  Team::each([&](int c, int j) { up[c][j] = kind.forward(gate[c][j], up[c][j]); });
  Team::store(y + r * hidden + column, hidden - column, up);
}

template <class Team, class Gate, class A>
__global__ void __launch_bounds__(kRowThreads)
    gate_spans_backward(Gate kind, const A* dy, const A* gate_up, A* dgate_up, std::int64_t rows,
                        int hidden) {
  const std::int64_t r = Team::team();
  if (r >= rows) {
    return;
  }
  const int column = static_cast<int>(blockIdx.y) * Team::kSpan;
  const std::int64_t at = r * 2 * hidden + column;
  const int width = hidden - column;
  typename Team::Values d;
  typename Team::Values gate;
  typename Team::Values up;
  Team::load(dy + r * hidden + column, width, d);
  Team::load(gate_up + at, width, gate);
  Team::load(gate_up + at + hidden, width, up);
  Team::each([&](int c, int j) {
    const GateUp v = kind.backward(d[c][j], gate[c][j], up[c][j]);
    gate[c][j] = v.gate;
    up[c][j] = v.up;
  });
  Team::store(dgate_up + at, width, gate);
  Team::store(dgate_up + at + hidden, width, up);
}

template <class Launch>
void with_gate(float limit, const Launch& launch_for) {
  if (limit > 0.0F) {
    launch_for(ClampedGate{limit});
  } else {
    launch_for(PlainGate{});
  }
}

}  // namespace

void CudaBackend::swiglu(const Tensor& gate_up, float limit, const Tensor& y) {
  const auto hidden = static_cast<int>(y.dim(1));
  with_type(y.dtype(), [&](auto type) {
    using A = decltype(type);
    const A* const in = device<A>(gate_up);
    A* const out = device<A>(y);
    with_flag(takes_vectors(hidden, in, out), [&](auto vectors) {
      using Team = RowTeam<kWarp, 2, vectors()>;
      with_gate(limit, [&](auto kind) {
        launch(stream(), gate_spans<Team, decltype(kind), A>, blocks_of<Team>(y.dim(0), hidden),
               kRowThreads, 0, kind, in, out, y.dim(0), hidden);
      });
    });
  });
}

void CudaBackend::swiglu_backward(const Tensor& dy, const Tensor& gate_up, float limit,
                                  const Tensor& dgate_up) {
  const auto hidden = static_cast<int>(dy.dim(1));
  with_type(dy.dtype(), [&](auto type) {
    using A = decltype(type);
    const A* const gradient = device<A>(dy);
    const A* const in = device<A>(gate_up);
    A* const out = device<A>(dgate_up);
    with_flag(takes_vectors(hidden, gradient, in, out), [&](auto vectors) {
      using Team = RowTeam<kWarp, 1, vectors()>;
      with_gate(limit, [&](auto kind) {
        launch(stream(), gate_spans_backward<Team, decltype(kind), A>,
               blocks_of<Team>(dy.dim(0), hidden), kRowThreads, 0, kind, gradient, in, out,
               dy.dim(0), hidden);
      });
    });
  });
}

}  // namespace moesaic::cuda
