#pragma once

// CUDA's small vectors.
// NOLINTBEGIN(readability-identifier-naming)
#define MOESAIC_VECTORS(T, name, bytes)                              \
  struct name##1 {                                                   \
    T x;                                                             \
  };                                                                 \
  struct alignas(2 * (bytes) > 16 ? 16 : 2 * (bytes)) name##2 {      \
    T x, y;                                                          \
  };                                                                 \
  struct name##3 {                                                   \
    T x, y, z;                                                       \
  };                                                                 \
  struct alignas(4 * (bytes) > 16 ? 16 : 4 * (bytes)) name##4 {      \
    T x, y, z, w;                                                    \
  };                                                                 \
  inline name##2 make_##name##2(T x, T y) { return {x, y}; }         \
  inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; } \
  inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
MOESAIC_VECTORS(signed char, char, 1)
MOESAIC_VECTORS(unsigned char, uchar, 1)
MOESAIC_VECTORS(short, short, 2)
MOESAIC_VECTORS(unsigned short, ushort, 2)
MOESAIC_VECTORS(int, int, 4)
MOESAIC_VECTORS(unsigned, uint, 4)
MOESAIC_VECTORS(long long, longlong, 8)
MOESAIC_VECTORS(unsigned long long, ulonglong, 8)
MOESAIC_VECTORS(float, float, 4)
MOESAIC_VECTORS(double, double, 8)
#undef MOESAIC_VECTORS

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1)  // NOLINT
      : x(x_), y(y_), z(z_) {}
  constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}  // NOLINT
};
// NOLINTEND(readability-identifier-naming)
