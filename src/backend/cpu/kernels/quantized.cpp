// Panels of packed weights from numbers, and back.
#include "backend/cpu/kernels/instruction_set_kernels.h"
#include "backend/cpu/kernels/simd.h"

namespace moesaic::cpu::MOESAIC_ISA {
namespace {

using Byte = std::uint8_t;
using F8 = float __attribute__((vector_size(32)));

constexpr Index kWord = 4;  // bytes
constexpr Index kLine = kWord * kPackedRows;

template <class T>
void put(std::byte* to, T value) {
  std::memcpy(to, &value, sizeof value);
}
template <class T>
T get(const void* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

float within(float x, float least, float most) { return x < least ? least : x > most ? most : x; }
float min_of(float a, float b) { return b < a ? b : a; }
float max_of(float a, float b) { return a < b ? b : a; }

// To nearest; of finite numbers.
std::uint16_t as_bf16(float x) {
  const auto bits = get<std::uint32_t>(&x);
  return static_cast<std::uint16_t>((bits + 0x7fffU + ((bits >> 16U) & 1U)) >> 16U);
}
float of_bf16(std::uint16_t half) {
  const std::uint32_t bits = std::uint32_t{half} << 16U;
  return get<float>(&bits);
}

// A block of one row, filled up with zeros.
struct Block {
  float w[kPackedBlock] = {}, error_weight[kPackedBlock] = {};
  Index depth = 0;
  float largest = 0.0F;

  Block(const PanelSource& source, Index row, Index begin) {
    const Index n = smaller(kPackedBlock, source.columns - begin);
    depth = packed_depth(n);
    for (Index k = 0; k < n; ++k) {
      error_weight[k] = source.mean_squares != nullptr ? source.mean_squares[begin + k] : 1.0F;
    }
    for (Index k = 0; k < n && row < source.rows; ++k) {
      w[k] = source.w[row * source.columns + begin + k];
      largest = max_of(largest, __builtin_fabsf(w[k]));
    }
  }
};

float sum(const F8& v) { return ((v[0] + v[4]) + (v[1] + v[5])) + ((v[2] + v[6]) + (v[3] + v[7])); }

// To an integer; even ones where two are as near.
template <class F>
F nearest(F x) {
  constexpr float kMagic = 12582912.0F;  // 1.5 * 2^23
  return (x + kMagic) - kMagic;
}

// Bytes of rows: number k of row r of a block's or group's words.
Byte* number_at(std::byte* words, Index row, Index k) {
  return reinterpret_cast<Byte*>(words + k / kWord * kLine + row * kWord + k % kWord);
}

void pack_int8(const Block& block, Index row, std::byte* out) {
  const float d = block.largest / 127.0F;
  put(out + row * kWord, d);
  for (Index k = 0; k < block.depth; ++k) {
    const float level = d > 0.0F ? nearest(block.w[k] / d) : 0.0F;
    *number_at(out + kPackedScaleBytes, row, k) =
        static_cast<Byte>(within(level, -127.0F, 127.0F) + 128.0F);
  }
}

constexpr float kMost = 15.0F;  // q
constexpr float kTop = 255.0F;  // q s + m

// Levels q s + m of a group, 0 <= q <= 15.
struct Levels {
  float s = 1.0F, m = 128.0F;
  float error = __builtin_inff();
};

template <class F>
F q_of(F x, const Levels& levels) {
  const F q = nearest((x - levels.m) * (1.0F / levels.s));
  const F positive = q > 0.0F ? q : F{};
  return positive < kMost ? positive : F{} + kMost;
}

// A group of one row in units of d, from 128 on.
struct Group {
  float x[kPackedGroup], error_weight[kPackedGroup];  // the largest error_weight is 1
  float least, range, unit, weight_sum = 0.0F;

  Group(const float* w, const float* weights, float d) {
    float most = 0.0F;
    for (Index i = 0; i < kPackedGroup; ++i) {
      most = max_of(most, weights[i]);
    }
    unit = most > 0.0F ? most : 1.0F;
    for (Index i = 0; i < kPackedGroup; ++i) {
      x[i] = w[i] / d + 128.0F;
      error_weight[i] = most > 0.0F ? weights[i] / most : 1.0F;
      weight_sum += error_weight[i];
    }
    float highest = least = x[0];
    for (Index i = 1; i < kPackedGroup; ++i) {
      least = min_of(least, x[i]);
      highest = max_of(highest, x[i]);
    }
    range = highest - least;
  }

  // Sets the error of the levels; returns the m that would be best for the same q.
  float judge(Levels& levels) const {
    F8 errors{};
    F8 rests{};
    for (Index i = 0; i < kPackedGroup; i += 8) {
      const auto values = get<F8>(x + i);
      const auto weight = get<F8>(error_weight + i);
      const F8 rest = values - q_of(values, levels) * levels.s;
      errors += weight * (rest - levels.m) * (rest - levels.m);
      rests += weight * rest;
    }
    levels.error = sum(errors);
    return sum(rests) / weight_sum;
  }

  Levels best() const {
    constexpr int kRounds = 3;
    constexpr float kNarrowest = 0.7F;
    const float widest = within(__builtin_ceilf(range / kMost), 1.0F, kTop / kMost);
    Levels found;
    for (float s = widest; s >= 1.0F && s >= __builtin_floorf(kNarrowest * widest); s -= 1.0F) {
      float m = least + (range - kMost * s) / 2.0F;
      Levels levels{.s = s, .m = -1.0F};
      for (int round = 0; round < kRounds; ++round) {
        const float next = within(nearest(m), 0.0F, kTop - kMost * s);
        if (next == levels.m) {
          break;
        }
        levels.m = next;
        m = judge(levels);
        if (levels.error < found.error) {
          found = levels;
        }
      }
    }
    return found;
  }
};

constexpr Index kGroups = kPackedBlock / kPackedGroup;

struct Int4Block {
  float d = 0.0F;
  Levels levels[kGroups];
  double error = 0.0;
};

Int4Block levels_of(const Block& block, float d) {
  Int4Block found;
  found.d = d;
  for (Index g = 0; g < block.depth / kPackedGroup; ++g) {
    const Index begin = g * kPackedGroup;
    const Group group(block.w + begin, block.error_weight + begin, d);
    const Levels levels = group.best();
    found.levels[g] = levels;
    found.error += static_cast<double>(levels.error) * group.unit * d * d;
  }
  return found;
}

Int4Block best_levels(const Block& block) {
  constexpr float kOthers[] = {0.94F, 1.06F};
  const float d = block.largest / 127.0F;
  if (!(d > 0.0F)) {
    return {};
  }
  Int4Block best = levels_of(block, d);
  for (const float factor : kOthers) {
    const Int4Block other = levels_of(block, d * factor);
    if (other.error < best.error) {
      best = other;
    }
  }
  return best;
}

void pack_int4(const Block& block, Index row, std::byte* out) {
  const Int4Block best = best_levels(block);
  put(out + row * kWord, best.d);
  const Index groups = block.depth / kPackedGroup;
  std::byte* const pairs = out + kPackedScaleBytes;
  std::byte* words = pairs + groups * kPackedPairBytes;
  for (Index g = 0; g < groups; ++g) {
    const Levels& levels = best.levels[g];
    put(pairs + g * kPackedPairBytes + 2 * row, static_cast<Byte>(levels.s));
    put(pairs + g * kPackedPairBytes + 2 * row + 1, static_cast<Byte>(levels.m));
    for (Index k = 0; k < kPackedGroup; ++k) {
      const float w = block.w[g * kPackedGroup + k];
      const float x = best.d > 0.0F ? w / best.d + 128.0F : 128.0F;
      // Words 2 i and 2 i + 1 of four numbers share 64 bytes.
      Byte* const both = number_at(words + k / (2 * kWord) * kLine, row, k % kWord);
      const auto q = static_cast<Byte>(q_of(x, levels));
      *both = static_cast<Byte>(k / kWord % 2 == 0 ? q : *both | q << 4U);
    }
    words += kPackedGroup / (2 * kWord) * kLine;
  }
}

Index block_bytes(DType format, Index depth) { return packed_panel_bytes(format, depth); }

void pack_bf16(const PanelSource& source, std::byte* out) {
  constexpr Index kPair = 2;
  for (Index k = 0; k < packed_depth(source.columns); ++k) {
    for (Index row = 0; row < kPackedRows; ++row) {
      const bool exists = row < source.rows && k < source.columns;
      put(out + k / kPair * kLine + row * kWord + k % kPair * kPair,
          as_bf16(exists ? source.w[row * source.columns + k] : 0.0F));
    }
  }
}

void pack_panel(DType format, const PanelSource& source, std::byte* out) {
  if (format == DType::kBf16) {
    pack_bf16(source, out);
    return;
  }
  for (Index begin = 0; begin < source.columns; begin += kPackedBlock) {
    Index depth = 0;
    for (Index row = 0; row < kPackedRows; ++row) {
      const Block block(source, row, begin);
      depth = block.depth;
      format == DType::kInt8 ? pack_int8(block, row, out) : pack_int4(block, row, out);
    }
    out += block_bytes(format, depth);
  }
}

void unpack_panel(DType format, const std::byte* panel, Index rows, Index columns, float* w) {
  for (Index k = 0; k < columns; ++k) {
    const Index begin = k / kPackedBlock * kPackedBlock;
    const std::byte* const block = panel + block_bytes(format, begin);
    const Index groups = packed_depth(smaller(kPackedBlock, columns - begin)) / kPackedGroup;
    const Index at = k - begin;
    for (Index row = 0; row < rows; ++row) {
      float& value = w[row * columns + k];
      if (format == DType::kBf16) {
        constexpr Index kPair = 2;
        value = of_bf16(
            get<std::uint16_t>(panel + k / kPair * kLine + row * kWord + k % kPair * kPair));
        continue;
      }
      const auto d = get<float>(block + row * kWord);
      const std::byte* data = block + kPackedScaleBytes;
      Index level = 0;
      if (format == DType::kInt8) {
        level = get<Byte>(data + at / kWord * kLine + row * kWord + at % kWord);
      } else {
        const std::byte* const pair = data + at / kPackedGroup * kPackedPairBytes + 2 * row;
        data += groups * kPackedPairBytes;
        const auto both = get<Byte>(data + at / (2 * kWord) * kLine + row * kWord + at % kWord);
        const Index q = at / kWord % 2 == 0 ? both & 0xfU : both >> 4U;
        level = q * get<Byte>(pair) + get<Byte>(pair + 1);
      }
      value = d * static_cast<float>(level - 128);
    }
  }
}

constexpr PanelKernels kPanels = {.pack = pack_panel, .unpack = unpack_panel};

}  // namespace

const PanelKernels& panels() { return kPanels; }

}  // namespace moesaic::cpu::MOESAIC_ISA
