// Rotary embedding (Su et al. 2021): (a, b) -> m (a cos - b sin, b cos + a sin) for pairs that are
// half a width apart, or neighbours.
#include "backend/cpu/kernels/instruction_set_kernels.h"
#include "backend/cpu/kernels/simd.h"

namespace moesaic::cpu::MOESAIC_ISA {
namespace {

struct CosSin {
  F16 cosine, sine;
};

// Cosine and sine of angles up to 4e6, absolute error below 2e-7. Takes away the nearest multiple n
// of pi / 2, and uses the polynomials of Cephes' sinf and cosf (Moshier 1992) for the rest.
// x - n pi / 2 is a fused multiply-add, exact for the leading part of pi / 2.
CosSin cos_sin(F16 x) {
  const F16 magic = splat(12582912.0F);  // 1.5 * 2^23: a sum with it ends in the bits of an integer
  const F16 shifted = x * 0.636619772368F + magic;
  const F16 n = shifted - magic;
  const F16 r = (x - n * 1.57079637051F) + n * 4.37113883e-8F;
  const F16 z = r * r;
  const F16 sine = ((-1.9515295891e-4F * z + 8.3321608736e-3F) * z - 1.6666654611e-1F) * z * r + r;
  const F16 cosine =
      ((2.443315711809948e-5F * z - 1.388731625493765e-3F) * z + 4.166664568298827e-2F) * z * z -
      0.5F * z + 1.0F;
  const U16 quarter = reinterpret_cast<U16>(shifted);
  const I16 odd = (quarter & 1U) != 0U;
  const U16 sine_sign = (quarter & 2U) << 30;
  const U16 cosine_sign = ((quarter + 1U) & 2U) << 30;
  return {reinterpret_cast<F16>(reinterpret_cast<U16>(odd ? sine : cosine) ^ cosine_sign),
          reinterpret_cast<F16>(reinterpret_cast<U16>(odd ? cosine : sine) ^ sine_sign)};
}

// Pairs of neighbours, n of them.
template <class A>
Pair load_neighbours(const A* p, Index n) {
  if (n >= kLanes) {
    const F16 low = load(p);
    const F16 high = load(p + kLanes);
    return {__builtin_shufflevector(low, high, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26,
                                    28, 30),
            __builtin_shufflevector(low, high, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27,
                                    29, 31)};
  }
  A both[2 * kLanes] = {};
  std::memcpy(static_cast<void*>(both), p, static_cast<std::size_t>(2 * n) * sizeof(A));
  return load_neighbours(both, kLanes);
}

template <class A>
void store_neighbours(A* p, Pair v, Index n) {
  if (n >= kLanes) {
    store(p, __builtin_shufflevector(v.first, v.second, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6,
                                     22, 7, 23));
    store(p + kLanes, __builtin_shufflevector(v.first, v.second, 8, 24, 9, 25, 10, 26, 11, 27, 12,
                                              28, 13, 29, 14, 30, 15, 31));
    return;
  }
  A both[2 * kLanes];
  store_neighbours(both, v, kLanes);
  std::memcpy(static_cast<void*>(p), both, static_cast<std::size_t>(2 * n) * sizeof(A));
}

// The first elements of the group's pairs from i on, and the second ones.
template <class A>
Pair load_pairs(const A* group, Index i, Index half, bool interleave) {
  const Index n = half - i;
  return interleave ? load_neighbours(group + 2 * i, n)
                    : Pair{load(group + i, n), load(group + half + i, n)};
}

template <class A>
void store_pairs(A* group, Pair v, Index i, Index half, bool interleave) {
  const Index n = half - i;
  if (interleave) {
    store_neighbours(group + 2 * i, v, n);
  } else {
    store(group + i, v.first, n);
    store(group + half + i, v.second, n);
  }
}

}  // namespace

template <class A>
void rope(A* x, const Groups& heads, const std::int32_t* position, const float* frequency,
          const Rotation& rotation, Index rows) {
  const Index half = heads.width / 2;
  for (Index t = 0; t < rows; ++t, x += heads.row) {
    for (Index i = 0; i < half; i += kLanes) {
      const CosSin of = cos_sin(load(frequency + i, half - i) * static_cast<float>(position[t]));
      const F16 c = of.cosine * rotation.magnitude;
      const F16 s = of.sine * (rotation.magnitude * rotation.sign);
      for (Index h = 0; h < heads.groups; ++h) {
        A* const head = x + heads.first + h * heads.stride;
        const Pair v = load_pairs(head, i, half, rotation.interleave);
        store_pairs(head, {v.first * c - v.second * s, v.second * c + v.first * s}, i, half,
                    rotation.interleave);
      }
    }
  }
}
template void rope(float*, const Groups&, const std::int32_t*, const float*, const Rotation&,
                   Index);
template void rope(BFloat16*, const Groups&, const std::int32_t*, const float*, const Rotation&,
                   Index);

}  // namespace moesaic::cpu::MOESAIC_ISA
