#include "data/corpus/columns.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "base/error.h"
#include "base/utf8.h"

namespace moesaic::data {
namespace {

constexpr std::int64_t kContiguousRows = 256;  // read at once where there are no chunks
constexpr std::int64_t kKeptRows = 16384;

[[noreturn]] void refuse_texts(const files::Hdf5File& file, const std::string& name) {
  throw Error(Exit::kBadData,
              fmt::format("{}: {} does not fit to its texts; copy it again, or run `moesaic "
                          "tokenize` again",
                          std::filesystem::absolute(file.path()).string(), name));
}

/// Bytes of a row: those of the longest text, unless padding would exceed all texts many times.
std::size_t row_bytes(const std::vector<std::string>& values) {
  constexpr std::size_t kLeast = 64, kTimesMean = 4;
  std::size_t longest = 1;
  std::size_t sum = 0;
  for (const std::string& value : values) {
    longest = std::max(longest, value.size());
    sum += value.size();
  }
  const std::size_t mean = sum / std::max<std::size_t>(1, values.size());
  return std::min(longest, std::max(kLeast, kTimesMean * mean));
}

}  // namespace

template <class T>
ColumnBlocksOf<T>::ColumnBlocksOf(const files::Hdf5File& file, std::string name,
                                  std::int64_t length)
    : length_(length), rows_(kContiguousRows) {
  if (!file.has(name)) {
    return;
  }
  name_ = std::move(name);
  if (const files::Extents chunk = file.chunk(name_); !chunk.empty()) {
    rows_ = chunk[0];
  }
}

template <class T>
const typename ColumnBlocksOf<T>::Block& ColumnBlocksOf<T>::block(const files::Hdf5File& file,
                                                                  std::int64_t index,
                                                                  const Check& check) {
  const std::int64_t first = index / rows_ * rows_;
  const auto here = std::find_if(kept_.begin(), kept_.end(),
                                 [first](const Block& each) { return each.first == first; });
  if (here != kept_.end()) {
    std::rotate(here, here + 1, kept_.end());
    return kept_.back();
  }
  Block block{first, std::vector<T>(static_cast<std::size_t>(std::min(rows_, length_ - first)))};
  if (!name_.empty()) {
    file.read<T>(name_, {first}, {std::ssize(block.values)}, block.values);
  }
  check(first, block.values);
  if (std::ssize(kept_) >= std::max<std::int64_t>(2, kKeptRows / rows_)) {
    kept_.erase(kept_.begin());
  }
  kept_.push_back(std::move(block));
  return kept_.back();
}

template class ColumnBlocksOf<std::int64_t>;
template class ColumnBlocksOf<float>;

std::int64_t find_in(ColumnBlocks& column, const files::Hdf5File& file, std::int64_t length,
                     std::int64_t last_entry, std::int64_t value,
                     const ColumnBlocks::Check& check) {
  // Entry `low` is at most the value, entry `high` above it.
  std::int64_t low = 0, high = length - 1;
  std::int64_t low_entry = 0, high_entry = last_entry;
  for (int tried = 0; high - low > 1; ++tried) {
    constexpr int kGuesses = 4;  // then by halves, however the entries are spread
    const double share =
        std::clamp(static_cast<double>(value - low_entry) /
                       static_cast<double>(std::max<std::int64_t>(1, high_entry - low_entry)),
                   0.0, 1.0);
    const auto guess =
        tried < kGuesses ? low + static_cast<std::int64_t>(share * static_cast<double>(high - low))
                         : low + (high - low) / 2;
    const ColumnBlocks::Block& block =
        column.block(file, std::clamp(guess, low + 1, high - 1), check);
    const auto above = std::upper_bound(block.values.begin(), block.values.end(), value);
    if (above != block.values.begin()) {
      low = std::max(low, block.first + (above - block.values.begin()) - 1);
      low_entry = *(above - 1);
    }
    if (above != block.values.end()) {
      high = std::min(high, block.first + (above - block.values.begin()));
      high_entry = *above;
    }
  }
  return low;
}

void write_texts(files::Hdf5File& file, const std::string& name,
                 const std::vector<std::string>& values, const files::Hdf5File::Layout& layout) {
  const std::size_t width = row_bytes(values);
  std::vector<std::string> rows;
  std::vector<std::uint64_t> row, offsets = {0};
  std::vector<std::uint8_t> text;
  for (const std::string& value : values) {
    if (value.size() > width) {
      row.push_back(rows.size());
      text.insert(text.end(), value.begin(), value.end());
      offsets.push_back(text.size());
    }
    const std::string_view part = std::string_view(value).substr(0, width);
    rows.emplace_back(value.size() > width ? part.substr(0, valid_prefix(part)) : part);
  }
  file.write_strings(name, rows, layout);
  if (!row.empty()) {
    file.write_all<std::uint64_t>(name + "_long/row", {std::ssize(row)}, row);
    file.write_all<std::uint64_t>(name + "_long/offsets", {std::ssize(offsets)}, offsets);
    file.write_all<std::uint8_t>(name + "_long/text", {std::ssize(text)}, text);
  }
}

std::vector<std::string> read_texts(const files::Hdf5File& file, const std::string& name) {
  std::vector<std::string> values = file.read_strings(name);
  const std::string whole = name + "_long";
  if (!file.has(whole)) {
    return values;
  }
  const auto row = file.read_all<std::int64_t>(whole + "/row");
  const auto offsets = file.read_all<std::int64_t>(whole + "/offsets");
  const auto text = file.read_all<std::uint8_t>(whole + "/text");
  if (offsets.size() != row.size() + 1 || offsets.front() != 0 ||
      offsets.back() != std::ssize(text) || !std::is_sorted(offsets.begin(), offsets.end())) {
    refuse_texts(file, whole);
  }
  for (std::size_t i = 0; i < row.size(); ++i) {
    if (row[i] < 0 || row[i] >= std::ssize(values)) {
      refuse_texts(file, whole);
    }
    values[static_cast<std::size_t>(row[i])].assign(text.begin() + offsets[i],
                                                    text.begin() + offsets[i + 1]);
  }
  return values;
}

}  // namespace moesaic::data
