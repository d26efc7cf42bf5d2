#pragma once

#include <cstddef>

namespace moesaic::bench {

/// What this machine can do at most, per second, with the benchmark's threads.
struct Limits {
  double flop;   // fp32, by independent chains of fused multiply-adds
  double bytes;  // read and written, of arrays that no cache holds
};

/// The threads of the benchmark: OMP_NUM_THREADS, or 1.
int threads();
/// Measured when first asked for, in about two seconds.
const Limits& limits();
/// Bytes read and written per second by copies within `bytes` of memory, that is, by a kernel that
/// moves as much and computes nothing.
double copy_rate(std::size_t bytes);

}  // namespace moesaic::bench
