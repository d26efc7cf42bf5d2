// Root-mean-square norm:  r = 1 / sqrt(mean(x^2) + eps),  y = x r g.
// Backward, with a = dy g and c = mean(a x):  dx = r (a - x r^2 c),  dg += dy x r.
// Norm of a group, with r = 1 / sqrt(squares / n + eps):  y = x r g;  backward, with a = dy g and
// dots = sum(a x):  dx = r (a - x r^2 dots / n),  dg += dy x r.
#include "backend/cpu/kernels/instruction_set_kernels.h"
#include "backend/cpu/kernels/simd.h"

namespace moesaic::cpu::MOESAIC_ISA {
namespace {

float reciprocal_root(float squares, const GroupNorm& norm) {
  return 1.0F / __builtin_sqrtf(squares / norm.count + norm.eps);
}

}  // namespace

template <class A>
void rms_norm(const float* x, const float* weight, float eps, A* y, float* rstd, Index rows,
              Index dim) {
  for (Index t = 0; t < rows; ++t, x += dim, y += dim) {
    F16 squares{};
    for (Index i = 0; i < dim; i += kLanes) {
      const F16 v = load(x + i, dim - i);
      squares += v * v;
    }
    const float r = 1.0F / __builtin_sqrtf(sum(squares) / static_cast<float>(dim) + eps);
    rstd[t] = r;
    for (Index i = 0; i < dim; i += kLanes) {
      store(y + i, load(x + i, dim - i) * r * load(weight + i, dim - i), dim - i);
    }
  }
}
template void rms_norm(const float*, const float*, float, float*, float*, Index, Index);
template void rms_norm(const float*, const float*, float, BFloat16*, float*, Index, Index);

void rms_norm_backward(const float* dy, const float* x, const float* weight, const float* rstd,
                       float* dx, float* dweight, Index rows, Index dim) {
  for (Index t = 0; t < rows; ++t, x += dim, dy += dim, dx += dim) {
    const float r = rstd[t];
    F16 dot{};
    for (Index i = 0; i < dim; i += kLanes) {
      const F16 xs = load(x + i, dim - i);
      const F16 dys = load(dy + i, dim - i);
      dot += dys * load(weight + i, dim - i) * xs;
      store(dweight + i, load(dweight + i, dim - i) + dys * xs * r, dim - i);
    }
    const float c = sum(dot) / static_cast<float>(dim) * r * r;
    for (Index i = 0; i < dim; i += kLanes) {
      const F16 a = load(dy + i, dim - i) * load(weight + i, dim - i);
      store(dx + i, (a - load(x + i, dim - i) * c) * r, dim - i);
    }
  }
}

template <class A>
void group_squares(const A* x, const Groups& groups, float* squares, Index rows) {
  for (Index t = 0; t < rows; ++t, x += groups.row) {
    for (Index g = 0; g < groups.groups; ++g) {
      const A* const group = x + groups.first + g * groups.stride;
      F16 total{};
      for (Index i = 0; i < groups.width; i += kLanes) {
        const F16 v = load(group + i, groups.width - i);
        total += v * v;
      }
      *squares++ = sum(total);
    }
  }
}
template void group_squares(const float*, const Groups&, float*, Index);
template void group_squares(const BFloat16*, const Groups&, float*, Index);

template <class A>
void group_norm(const A* x, const Groups& groups, const float* squares, const GroupNorm& norm, A* y,
                Index rows) {
  for (Index t = 0; t < rows; ++t, x += groups.row, y += groups.row) {
    for (Index g = 0; g < groups.groups; ++g) {
      const Index at = groups.first + g * groups.stride;
      const float r = reciprocal_root(*squares++, norm);
      for (Index i = 0; i < groups.width; i += kLanes) {
        const Index n = groups.width - i;
        store(y + at + i, load(x + at + i, n) * r * load(norm.weight + i, n), n);
      }
    }
  }
}
template void group_norm(const float*, const Groups&, const float*, const GroupNorm&, float*,
                         Index);
template void group_norm(const BFloat16*, const Groups&, const float*, const GroupNorm&, BFloat16*,
                         Index);

template <class A>
void group_dots(const A* dy, const A* x, const Groups& groups, const float* weight, float* dots,
                Index rows) {
  for (Index t = 0; t < rows; ++t, x += groups.row, dy += groups.row) {
    for (Index g = 0; g < groups.groups; ++g) {
      const Index at = groups.first + g * groups.stride;
      F16 total{};
      for (Index i = 0; i < groups.width; i += kLanes) {
        const Index n = groups.width - i;
        total += load(dy + at + i, n) * load(weight + i, n) * load(x + at + i, n);
      }
      *dots++ = sum(total);
    }
  }
}
template void group_dots(const float*, const float*, const Groups&, const float*, float*, Index);
template void group_dots(const BFloat16*, const BFloat16*, const Groups&, const float*, float*,
                         Index);

template <class A>
void group_norm_backward(A* dy, const A* x, const Groups& groups, const float* squares,
                         const float* dots, const GroupNorm& norm, float* dweight, Index rows) {
  for (Index t = 0; t < rows; ++t, x += groups.row, dy += groups.row) {
    for (Index g = 0; g < groups.groups; ++g) {
      const Index at = groups.first + g * groups.stride;
      const float r = reciprocal_root(*squares++, norm);
      const float c = *dots++ / norm.count * r * r;
      for (Index i = 0; i < groups.width; i += kLanes) {
        const Index n = groups.width - i;
        const F16 d = load(dy + at + i, n);
        const F16 v = load(x + at + i, n);
        store(dweight + i, load(dweight + i, n) + d * v * r, n);
        store(dy + at + i, (d * load(norm.weight + i, n) - v * c) * r, n);
      }
    }
  }
}
template void group_norm_backward(float*, const float*, const Groups&, const float*, const float*,
                                  const GroupNorm&, float*, Index);
template void group_norm_backward(BFloat16*, const BFloat16*, const Groups&, const float*,
                                  const float*, const GroupNorm&, float*, Index);

}  // namespace moesaic::cpu::MOESAIC_ISA
