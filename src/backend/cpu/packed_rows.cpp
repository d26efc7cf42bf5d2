#include "backend/cpu/packed_rows.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace moesaic {
namespace {

using Index = std::int64_t;

constexpr Index kWord = 4;  // numbers of int8
constexpr Index kLine = kWord * kPackedRows;

static_assert(kPackedBlock == kQuantizedBlock && kPackedGroup == kQuantizedGroup);

/// Where the numbers of one row and block of 256 lie. Byte: std::byte, const or not.
template <class Byte>
struct Place {
  Byte *scale, *pairs, *words;  // pairs: of int4

  Place(DType format, Byte* panels, Index columns, Index row, Index begin) {
    Byte* const panel = panels + row / kPackedRows * packed_panel_bytes(format, columns);
    Byte* const block = panel + packed_panel_bytes(format, begin);
    const Index lane = row % kPackedRows;
    const Index groups = packed_depth(std::min(kPackedBlock, columns - begin)) / kPackedGroup;
    scale = block + lane * kWord;
    pairs = block + kPackedScaleBytes + 2 * lane;
    words = block + kPackedScaleBytes + lane * kWord +
            (format == DType::kInt4 ? groups * kPackedPairBytes : 0);
  }
  Byte* pair(Index group) const { return pairs + group * kPackedPairBytes; }
};

/// The byte that holds number k of a block, and by how much it is shifted there.
template <class Byte>
struct Code {
  Byte* byte;
  unsigned shift;
};
template <class Byte>
Code<Byte> code_at(DType format, const Place<Byte>& place, Index k) {
  if (format == DType::kInt8) {
    return {place.words + k / kWord * kLine + k % kWord, 0};
  }
  // Words 2 i and 2 i + 1 of four numbers share 64 bytes.
  return {place.words + k / (2 * kWord) * kLine + k % kWord, k / kWord % 2 == 0 ? 0U : 4U};
}

void check_size(DType format, std::size_t bytes, Index rows, Index columns) {
  require(static_cast<Index>(bytes) >=
              packed_parts(rows, kPackedRows) * packed_panel_bytes(format, columns),
          "panels are too short for their rows");
}

// Calls visit(row, block, place) for each row and block of the rows; first: of them in the group.
template <class Byte, class Visit>
void each_block(const QuantizedRows& rows, Index first, Byte* panels, const Visit& visit) {
  for (Index row = 0; row < rows.rows; ++row) {
    for (Index begin = 0; begin < rows.columns; begin += kPackedBlock) {
      visit(row, begin, Place<Byte>(rows.type, panels, rows.columns, first + row, begin));
    }
  }
}

}  // namespace

QuantizedRows rows_of_panels(DType format, std::span<const std::byte> panels, Index rows,
                             Index columns) {
  check_size(format, panels.size(), rows, columns);
  QuantizedRows result = QuantizedRows::zeros(format, rows, columns);
  each_block(result, 0, panels.data(), [&](Index row, Index begin, const auto& place) {
    const Index block = row * result.blocks() + begin / kPackedBlock;
    std::memcpy(&result.scales[static_cast<std::size_t>(block)], place.scale, sizeof(float));
    for (Index k = begin; k < std::min(columns, begin + kPackedBlock); ++k) {
      if (format == DType::kInt4 && k % kPackedGroup == 0) {
        const Index group = row * result.groups() + k / kPackedGroup;
        std::memcpy(&result.steps[static_cast<std::size_t>(2 * group)],
                    place.pair((k - begin) / kPackedGroup), 2);
      }
      const auto code = code_at(format, place, k - begin);
      const unsigned mask = format == DType::kInt8 ? 0xffU : 0xfU;
      result.set_code(
          row, k,
          static_cast<std::uint8_t>(std::to_integer<unsigned>(*code.byte >> code.shift) & mask));
    }
  });
  return result;
}

void put_into_panels(const QuantizedRows& rows, Index first, std::span<std::byte> panels) {
  const DType format = rows.type;
  check_size(format, panels.size(), first + rows.rows, rows.columns);
  each_block(rows, first, panels.data(), [&](Index row, Index begin, const auto& place) {
    const float scale = rows.scale(row, begin);
    std::memcpy(place.scale, &scale, sizeof scale);
    for (Index k = begin; k < std::min(rows.columns, begin + kPackedBlock); ++k) {
      if (format == DType::kInt4 && k % kPackedGroup == 0) {
        std::memcpy(place.pair((k - begin) / kPackedGroup), rows.step(row, k).data(), 2);
      }
      const auto code = code_at(format, place, k - begin);
      const std::byte value{rows.code(row, k)};
      *code.byte = format == DType::kInt8 ? value : *code.byte | value << code.shift;
    }
  });
}

void clear_panels(DType format, Index columns, std::span<std::byte> panels) {
  const Index bytes = packed_panel_bytes(format, columns);
  if (bytes == 0) {
    return;
  }
  const QuantizedRows zeros = QuantizedRows::zeros(format, kPackedRows, packed_depth(columns));
  std::memset(panels.data(), 0, panels.size());
  for (std::size_t at = 0; at < panels.size(); at += static_cast<std::size_t>(bytes)) {
    put_into_panels(zeros, 0, panels.subspan(at, static_cast<std::size_t>(bytes)));
  }
}

}  // namespace moesaic
