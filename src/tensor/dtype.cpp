#include "tensor/dtype.h"

#include <array>

namespace moesaic {
namespace {

struct Row {
  DType dtype;
  const char* name;
  std::size_t bytes;
};
constexpr std::array<Row, 8> kRows{{{DType::kF32, "fp32", 4},
                                    {DType::kBf16, "bf16", 2},
                                    {DType::kI32, "int32", 4},
                                    {DType::kF64, "fp64", 8},
                                    {DType::kF16, "fp16", 2},
                                    {DType::kE4m3, "e4m3", 1},
                                    {DType::kInt8, "int8", 1},
                                    {DType::kInt4, "int4", 0}}};  // in the order of the enum

}  // namespace

const char* name_of(DType dtype) { return kRows.at(static_cast<std::size_t>(dtype)).name; }

std::optional<DType> dtype_named(std::string_view name) {
  for (const Row& row : kRows) {
    if (row.name == name) {
      return row.dtype;
    }
  }
  return std::nullopt;
}

std::size_t size_of(DType dtype) { return kRows.at(static_cast<std::size_t>(dtype)).bytes; }

}  // namespace moesaic
