#pragma once

#include <cstdint>
#include <string_view>

namespace moesaic {

/// A well-mixed 64-bit value of its argument (the finaliser of SplitMix64, Steele et al. 2014).
constexpr std::uint64_t mix64(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30U)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27U)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31U);
}

/// FNV-1a; keys a stream of random numbers by a public name.
constexpr std::uint64_t hash_name(std::string_view name) {
  std::uint64_t hash = 0xcbf29ce484222325ULL;
  for (const char c : name) {
    hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  }
  return hash;
}

/// Counter-based random numbers: value i of a stream depends on (seed, stream, i) alone, so that
/// every layout of ranks sees the same numbers.
class Rng {
 public:
  Rng(std::uint64_t seed, std::uint64_t stream) : key_(mix64(mix64(seed) ^ stream)) {}

  std::uint64_t bits(std::uint64_t i) const { return mix64(key_ ^ mix64(i)); }
  double uniform(std::uint64_t i) const;  // in (0, 1)
  double normal(std::uint64_t i) const;   // mean 0, variance 1

 private:
  std::uint64_t key_;
};

}  // namespace moesaic
