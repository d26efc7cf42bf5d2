#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "files/hdf5/file.h"

// The datasets of one block of a checkpoint. fp32: one of f4. bf16, fp16: one of u2, the numbers'
// bits. int8, int4: a group of `codes`, `scales` and, for int4, `steps`, which tensor/quantized.h
// explains. All but fp32 say their type in the attribute `type`.
namespace moesaic::checkpoint {

/// A type that a block may have; nothing: there is none of that name.
std::optional<DType> block_type(std::string_view name);

/// Bytes of a block's data in the file. A quantized block has two dims.
double bytes_of(DType type, const files::Extents& extent);

/// What a block holds: rows if it is quantized, else values.
struct BlockContent {
  DType type = DType::kF32;
  std::vector<float> values;
  QuantizedRows rows;
};

// On the HDF5 thread.
/// Returns the SHA-256 of the datasets' bytes, in the order named above (of codes, scales and
/// steps). kBadNumbers without the file's name if the type cannot hold a value.
std::string write_block(files::Hdf5File& file, const std::string& dataset,
                        const files::Extents& extent, const BlockContent& content);
/// kBadData without the file's name if the datasets are not what the type says, their SHA-256 is
/// another one, or a code or scale is impossible.
BlockContent read_block(const files::Hdf5File& file, const std::string& dataset, DType type,
                        const files::Extents& extent, const std::string& sha256);

}  // namespace moesaic::checkpoint
