#include "checkpoint/block.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "base/error.h"
#include "base/sha256.h"
#include "checkpoint/manifest.h"
#include "hf/safetensors/stored_dtype.h"

namespace moesaic::checkpoint {
namespace {

std::vector<std::uint16_t> to_bits(DType type, std::span<const float> values) {
  std::vector<std::uint16_t> bits(values.size());
  hf::encode(type, values, std::as_writable_bytes(std::span(bits)));
  std::vector<float> stored(values.size());
  hf::decode(type, std::as_bytes(std::span(bits)), stored);
  const auto bad =
      std::find_if(stored.begin(), stored.end(), [](float v) { return !std::isfinite(v); });
  if (bad != stored.end()) {
    const auto at = bad - stored.begin();
    throw Error(Exit::kBadNumbers,
                fmt::format("element {} is {}, which {} cannot hold", at,
                            values[static_cast<std::size_t>(at)],
                            type == DType::kF16 ? "fp16 (at most 65504)" : "bf16"));
  }
  return bits;
}

// The datasets of a quantized block: calls visit(name, array, extents) for each.
template <class Rows, class Visit>
void each_array(Rows& rows, const Visit& visit) {
  visit("codes", rows.codes, files::Extents{rows.rows, rows.code_bytes()});
  visit("scales", rows.scales, files::Extents{rows.rows, rows.blocks()});
  if (rows.type == DType::kInt4) {
    visit("steps", rows.steps, files::Extents{rows.rows, rows.groups(), 2});
  }
}

template <class T>
void read_exactly(const files::Hdf5File& file, const std::string& dataset, std::string_view type,
                  const files::Extents& extents, std::vector<T>& values) {
  if (file.type_of(dataset) != type) {
    throw Error(Exit::kBadData, fmt::format("{} is not {}", dataset, type));
  }
  if (file.extents(dataset) != extents) {
    throw Error(Exit::kBadData, fmt::format("{} has not the extents of its block", dataset));
  }
  values.resize(static_cast<std::size_t>(volume(extents)));
  file.read<T>(dataset, files::Extents(extents.size(), 0), extents, values);
}

void check_sum(const std::string& sum, const std::string& stated) {
  if (sum != stated) {
    throw Error(Exit::kBadData, fmt::format("its sha256 is {}, the manifest says {}", sum, stated));
  }
}

template <class T>
std::string sum_of(const std::vector<T>& values) {
  return Sha256::of(std::as_bytes(std::span(values)));
}

QuantizedRows read_rows(const files::Hdf5File& file, const std::string& group, DType type,
                        const files::Extents& extent, const std::string& sha256) {
  QuantizedRows rows;
  rows.type = type;
  rows.rows = extent.at(0);
  rows.columns = extent.at(1);
  Sha256 sum;
  each_array(rows, [&](const char* name, auto& values, const files::Extents& extents) {
    const bool scales = extents.size() == 2 && std::is_same_v<decltype(values[0]), float&>;
    read_exactly(file, group + "/" + name, scales ? "f4" : "u1", extents, values);
    sum.update(std::as_bytes(std::span(values)));
  });
  check_sum(sum.hex(), sha256);
  if (const std::string problem = rows.problem(); !problem.empty()) {
    throw Error(Exit::kBadData, problem);
  }
  return rows;
}

}  // namespace

std::optional<DType> block_type(std::string_view name) {
  const std::optional<DType> type = dtype_named(name);
  const bool known = type == DType::kF32 || type == DType::kBf16 || type == DType::kF16 ||
                     (type && is_quantized(*type));
  return known ? type : std::nullopt;
}

double bytes_of(DType type, const files::Extents& extent) {
  const auto elements = static_cast<double>(volume(extent));
  if (type == DType::kF32) {
    return 4.0 * elements;
  }
  if (!is_quantized(type)) {
    return 2.0 * elements;
  }
  const auto rows = static_cast<double>(extent.at(0));
  const auto columns = static_cast<double>(extent.at(1));
  const double scales = 4.0 * std::ceil(columns / static_cast<double>(kQuantizedBlock));
  const double steps = 2.0 * std::ceil(columns / static_cast<double>(kQuantizedGroup));
  return type == DType::kInt8 ? elements + rows * scales
                              : rows * (std::ceil(columns / 2.0) + scales + steps);
}

std::string write_block(files::Hdf5File& file, const std::string& dataset,
                        const files::Extents& extent, const BlockContent& content) {
  if (content.type == DType::kF32) {
    file.write_all<float>(dataset, extent, content.values);
    return sum_of(content.values);
  }
  if (!is_quantized(content.type)) {
    const auto bits = to_bits(content.type, content.values);
    file.write_all<std::uint16_t>(dataset, extent, bits);
    file.set_attribute(dataset, "type", std::string(name_of(content.type)));
    return sum_of(bits);
  }
  Sha256 sum;
  each_array(content.rows,
             [&](const char* name, const auto& values, const files::Extents& extents) {
               using T = typename std::decay_t<decltype(values)>::value_type;
               file.write_all<T>(dataset + "/" + name, extents, std::span<const T>(values));
               sum.update(std::as_bytes(std::span(values)));
             });
  file.set_attribute(dataset, "type", std::string(name_of(content.type)));
  return sum.hex();
}

BlockContent read_block(const files::Hdf5File& file, const std::string& dataset, DType type,
                        const files::Extents& extent, const std::string& sha256) {
  BlockContent content;
  content.type = type;
  if (is_quantized(type)) {
    content.rows = read_rows(file, dataset, type, extent, sha256);
  } else if (type == DType::kF32) {
    read_exactly(file, dataset, "f4", extent, content.values);
    check_sum(sum_of(content.values), sha256);
  } else {
    std::vector<std::uint16_t> bits;
    read_exactly(file, dataset, "u2", extent, bits);
    check_sum(sum_of(bits), sha256);
    content.values.resize(bits.size());
    hf::decode(type, std::as_bytes(std::span(bits)), content.values);
  }
  return content;
}

}  // namespace moesaic::checkpoint
