// SwiGLU: y = g s(g) u with s the logistic function;
//   dg = dy u s(g) (1 + g (1 - s(g))),  du = dy g s(g).
// Clamped, as gpt-oss has it: with g and u clamped to limits, y = (u + 1) g s(1.702 g).
#include "backend/cpu/kernels/instruction_set_kernels.h"
#include "backend/cpu/kernels/simd.h"

namespace moesaic::cpu::MOESAIC_ISA {
namespace {

F16 logistic(F16 x) { return 1.0F / (1.0F + exp(-x)); }

struct GateUp {
  F16 gate, up;
};

struct PlainGate {
  F16 forward(F16 gate, F16 up) const { return gate * logistic(gate) * up; }
  GateUp backward(F16 d, F16 gate, F16 up) const {
    const F16 s = logistic(gate);
    return {d * up * s * (1.0F + gate * (1.0F - s)), d * gate * s};
  }
};

struct ClampedGate {
  static constexpr float kSlope = 1.702F;

  F16 forward(F16 gate, F16 up) const {
    const F16 g = below(gate);
    return g * logistic(g * kSlope) * (-below(-below(up)) + 1.0F);
  }
  GateUp backward(F16 d, F16 gate, F16 up) const {
    const F16 g = below(gate);
    const F16 u = -below(-below(up));
    const F16 s = logistic(g * kSlope);
    const F16 dgate = d * (u + 1.0F) * s * (1.0F + g * kSlope * (1.0F - s));
    return {gate > g ? F16{} : dgate, u != up ? F16{} : d * g * s};
  }
  F16 below(F16 x) const { return x > splat(limit) ? splat(limit) : x; }

  float limit;
};

template <class Gate, class A>
void gate(const Gate& kind, const A* gate_up, A* y, Index rows, Index hidden) {
  for (Index r = 0; r < rows; ++r, gate_up += 2 * hidden, y += hidden) {
    const A* const up = gate_up + hidden;
    Index i = 0;
    for (; i + 2 * kLanes <= hidden; i += 2 * kLanes) {
      const Pair g = load_pair(gate_up + i);
      const Pair u = load_pair(up + i);
      store_pair(y + i, {kind.forward(g.first, u.first), kind.forward(g.second, u.second)});
    }
    for (; i < hidden; i += kLanes) {
      const Index n = hidden - i;
      store(y + i, kind.forward(load(gate_up + i, n), load(up + i, n)), n);
    }
  }
}

template <class Gate, class A>
void gate_backward(const Gate& kind, const A* dy, const A* gate_up, A* dgate_up, Index rows,
                   Index hidden) {
  for (Index r = 0; r < rows; ++r, gate_up += 2 * hidden, dgate_up += 2 * hidden, dy += hidden) {
    const A* const up = gate_up + hidden;
    A* const dup = dgate_up + hidden;
    Index i = 0;
    for (; i + 2 * kLanes <= hidden; i += 2 * kLanes) {
      const Pair d = load_pair(dy + i);
      const Pair g = load_pair(gate_up + i);
      const Pair u = load_pair(up + i);
      const GateUp first = kind.backward(d.first, g.first, u.first);
      const GateUp second = kind.backward(d.second, g.second, u.second);
      store_pair(dgate_up + i, {first.gate, second.gate});
      store_pair(dup + i, {first.up, second.up});
    }
    for (; i < hidden; i += kLanes) {
      const Index n = hidden - i;
      const GateUp v = kind.backward(load(dy + i, n), load(gate_up + i, n), load(up + i, n));
      store(dgate_up + i, v.gate, n);
      store(dup + i, v.up, n);
    }
  }
}

}  // namespace

template <class A>
void swiglu(const A* gate_up, float limit, A* y, Index rows, Index hidden) {
  if (limit > 0.0F) {
    gate(ClampedGate{limit}, gate_up, y, rows, hidden);
  } else {
    gate(PlainGate{}, gate_up, y, rows, hidden);
  }
}
template void swiglu(const float*, float, float*, Index, Index);
template void swiglu(const BFloat16*, float, BFloat16*, Index, Index);

template <class A>
void swiglu_backward(const A* dy, const A* gate_up, float limit, A* dgate_up, Index rows,
                     Index hidden) {
  if (limit > 0.0F) {
    gate_backward(ClampedGate{limit}, dy, gate_up, dgate_up, rows, hidden);
  } else {
    gate_backward(PlainGate{}, dy, gate_up, dgate_up, rows, hidden);
  }
}
template void swiglu_backward(const float*, const float*, float, float*, Index, Index);
template void swiglu_backward(const BFloat16*, const BFloat16*, float, BFloat16*, Index, Index);

}  // namespace moesaic::cpu::MOESAIC_ISA
