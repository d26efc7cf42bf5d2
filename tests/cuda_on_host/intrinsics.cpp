#include "cuda_on_host/intrinsics.h"

#include <algorithm>
#include <limits>

namespace moesaic::cuda_on_host {
namespace {

void join_shuffles(void* const (&lanes)[32], Where where) {
  for (void* const lane : lanes) {
    if (lane == nullptr) {
      continue;
    }
    auto& mine = *static_cast<Shuffle*>(lane);
    const void* const from = lanes[mine.from];
    if (from == nullptr) {
      fail("a shuffle reads a lane that is not in its mask", where);
    }
    mine.result = static_cast<const Shuffle*>(from)->value;
  }
}

// Every lane's part becomes the whole vote.
void join_votes(void* const (&lanes)[32], Where /*where*/) {
  Vote all;
  bool first = true;
  for (unsigned lane = 0; lane < 32; ++lane) {
    if (lanes[lane] == nullptr) {
      continue;
    }
    const std::uint64_t bits = static_cast<const Vote*>(lanes[lane])->value;
    const auto value = static_cast<std::int64_t>(bits);
    all.holding |= bits != 0 ? 1U << lane : 0U;
    all.sum = static_cast<std::int64_t>(static_cast<std::uint64_t>(all.sum) + bits);
    all.least = first ? value : std::min(all.least, value);
    all.most = first ? value : std::max(all.most, value);
    all.all_bits = static_cast<std::uint32_t>(first ? bits : all.all_bits & bits);
    all.any_bits |= static_cast<std::uint32_t>(bits);
    first = false;
  }
  unsigned matching[32] = {};
  for (unsigned lane = 0; lane < 32; ++lane) {
    for (unsigned other = 0; other < 32 && lanes[lane] != nullptr; ++other) {
      const bool same = lanes[other] != nullptr && static_cast<const Vote*>(lanes[other])->value ==
                                                       static_cast<const Vote*>(lanes[lane])->value;
      matching[lane] |= same ? 1U << other : 0U;
    }
  }
  for (unsigned lane = 0; lane < 32; ++lane) {
    if (lanes[lane] != nullptr) {
      all.matching = matching[lane];
      *static_cast<Vote*>(lanes[lane]) = all;
    }
  }
}

}  // namespace

template <class To>
To saturated(double value) {
  using Limits = std::numeric_limits<To>;
  if (std::isnan(value)) {
    return 0;
  }
  if (value <= static_cast<double>(Limits::min())) {
    return Limits::min();
  }
  // The largest long long is no double: from 2^63 on.
  return value >= static_cast<double>(Limits::max()) ? Limits::max() : static_cast<To>(value);
}

void shuffle(unsigned mask, const char* name, Shuffle& lane, Where where) {
  together(mask, name, &lane, join_shuffles, where);
}

Vote vote(unsigned mask, const char* name, std::uint64_t value, Where where) {
  Vote mine;
  mine.value = value;
  together(mask, name, &mine, join_votes, where);
  return mine;
}

}  // namespace moesaic::cuda_on_host

using moesaic::cuda_on_host::saturated;

// NOLINTBEGIN(readability-identifier-naming)
int __float2int_rn(float value) { return saturated<int>(nearbyintf(value)); }
int __float2int_rz(float value) { return saturated<int>(truncf(value)); }
int __float2int_rd(float value) { return saturated<int>(floorf(value)); }
int __float2int_ru(float value) { return saturated<int>(ceilf(value)); }
unsigned __float2uint_rn(float value) { return saturated<unsigned>(nearbyintf(value)); }
long long __float2ll_rn(float value) { return saturated<long long>(nearbyintf(value)); }

unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
  const std::uint64_t both = static_cast<std::uint64_t>(high) << 32U | low;
  unsigned result = 0;
  for (unsigned byte = 0; byte < 4; ++byte) {
    const unsigned which = selector >> (4 * byte) & 15U;
    const auto value = static_cast<std::uint8_t>(both >> (8 * (which & 7U)));
    const unsigned sign = (value & 0x80U) != 0 ? 0xffU : 0U;
    result |= ((which & 8U) != 0 ? sign : value) << (8 * byte);
  }
  return result;
}

int __dp4a(int a, int b, int sum) {
  for (unsigned byte = 0; byte < 4; ++byte) {
    sum += static_cast<int>(static_cast<std::int8_t>(static_cast<unsigned>(a) >> (8 * byte))) *
           static_cast<int>(static_cast<std::int8_t>(static_cast<unsigned>(b) >> (8 * byte)));
  }
  return sum;
}
// NOLINTEND(readability-identifier-naming)
