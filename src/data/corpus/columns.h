#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "files/hdf5/file.h"

// The columns of a shard's documents, in the few places where a sample needs them.
namespace moesaic::data {

/// A column of numbers (T: std::int64_t or float), read a chunk at a time. The chunks used last are
/// kept, so that a walk or a search costs each of them once. On the HDF5 thread.
template <class T>
class ColumnBlocksOf {
 public:
  /// Looks at each block when it is read.
  using Check = std::function<void(std::int64_t first, const std::vector<T>& values)>;

  ColumnBlocksOf() = default;
  /// A dataset that is absent reads as zeros.
  ColumnBlocksOf(const files::Hdf5File& file, std::string name, std::int64_t length);

  struct Block {
    std::int64_t first = 0;
    std::vector<T> values;
  };
  /// The block that entry `index` is in: valid until the next call.
  const Block& block(const files::Hdf5File& file, std::int64_t index, const Check& check);
  T at(const files::Hdf5File& file, std::int64_t index, const Check& check) {
    const Block& found = block(file, index, check);
    return found.values[static_cast<std::size_t>(index - found.first)];
  }

 private:
  std::string name_;  // empty: absent
  std::int64_t length_ = 0, rows_ = 1;
  std::vector<Block> kept_;  // the one used last is at the back
};
using ColumnBlocks = ColumnBlocksOf<std::int64_t>;

/// The last entry of a sorted column that is not above `value`, which lies in [first entry, last
/// entry), looking at few blocks: the entries are about evenly spread, as offsets of documents are.
std::int64_t find_in(ColumnBlocks& column, const files::Hdf5File& file, std::int64_t length,
                     std::int64_t last_entry, std::int64_t value, const ColumnBlocks::Check& check);

/// Strings in one dataset of fixed width, as HDF5 reads without risk, in space linear in their
/// bytes: what is much longer than most of them is cut there, and whole in NAME_long, with
/// `row`, `offsets` [+ 1] and the bytes `text`.
void write_texts(files::Hdf5File& file, const std::string& name,
                 const std::vector<std::string>& values, const files::Hdf5File::Layout& layout);
std::vector<std::string> read_texts(const files::Hdf5File& file, const std::string& name);

}  // namespace moesaic::data
