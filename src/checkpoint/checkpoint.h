#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "tensor/quantized.h"

// DIR/step-00001000/: manifest.json and part-NNNNN.h5 files. Every tensor is stored under its
// public name and unsharded shape, in blocks, each written once by the rank that owns it: in fp32,
// or as `convert` was asked to (block.h).
namespace moesaic {
class Json;
}

namespace moesaic::checkpoint {

/// Makes the values of a block when they are written, one block after the other, so that they need
/// no memory all at once.
using BlockValues = std::function<std::vector<float>()>;
/// Those that are there already; they must outlive it.
BlockValues given(std::span<const float> values);

/// Elements [offset, offset + extent) of tensor `name`, whose unsharded shape is `shape`. Optimizer
/// moments are tensors named "exp_avg/NAME" and "exp_avg_sq/NAME".
struct BlockToSave {
  std::string name;
  std::vector<std::int64_t> shape, offset, extent;
  BlockValues values;
  DType type = DType::kF32;                  // in the file
  std::function<QuantizedRows()> rows = {};  // instead of values, for int8 and int4
};

/// Everything that is not a tensor: step, cursor, config, layout, task names, ... Written by rank 0
/// into the manifest under "state".
struct SaveRequest {
  std::filesystem::path dir;  // the folder of all checkpoints
  std::int64_t step = 0;
  const Json& state;
  std::vector<std::filesystem::path> copy;        // sidecar files (the tokenizer's)
  std::map<std::string, std::string> texts = {};  // others, by name
  std::function<void()> on_progress = {};         // called on each rank before each block
};

/// Collective over world. Writes step-XXXXXXXX.tmp, fsyncs, and renames it after the manifest is in
/// place; then DIR/latest. Returns the checkpoint's folder. Throws AgreedError (kIoError) on all
/// ranks if it failed on any; older checkpoints are then untouched.
std::filesystem::path save_checkpoint(const SaveRequest& request,
                                      const std::vector<BlockToSave>& blocks,
                                      const comm::Communicator& world);

/// Complete checkpoints of a folder, oldest first. Leftovers of an unfinished save are not listed.
std::vector<std::filesystem::path> complete_checkpoints(const std::filesystem::path& dir);
/// Gives back its name to each complete checkpoint that gave way to one of the same step which then
/// did not come. Call on one rank.
void put_back_replaced(const std::filesystem::path& dir);
/// Renames those of later steps, which another run or another course of this one has left, so that
/// they do not count any more. Returns their new names. Throws kIoError. Call on one rank.
std::vector<std::filesystem::path> set_aside_later(const std::filesystem::path& dir,
                                                   std::int64_t step);
/// Deletes all but the newest `keep` complete checkpoints (those of a multiple of keep_every steps
/// stay, if keep_every > 0) and stale unfinished ones. Warns if it cannot. Call on one rank.
void prune_checkpoints(const std::filesystem::path& dir, std::int64_t keep,
                       std::int64_t keep_every);

/// A checkpoint open for reading; any rank may read any part of any tensor.
class CheckpointReader {
 public:
  /// path: a checkpoint, or a folder of checkpoints (its newest complete one).
  static CheckpointReader open(const std::filesystem::path& path);
  /// The folder that open would read.
  static std::filesystem::path find(const std::filesystem::path& path);
  /// One whose manifest.json has this text.
  static CheckpointReader of(const std::filesystem::path& folder, const std::string& manifest);
  CheckpointReader(CheckpointReader&&) noexcept;
  CheckpointReader& operator=(CheckpointReader&&) noexcept;
  ~CheckpointReader();

  const std::filesystem::path& path() const;
  const Json& state() const;
  const std::string& manifest_sha256() const;      // of the text
  std::vector<std::string> sidecar_files() const;  // names; besides its part files
  std::vector<std::string> names() const;
  /// Unsharded shape, or nothing if there is no such tensor.
  std::optional<std::vector<std::int64_t>> shape(const std::string& name) const;
  /// Its stored_type if that is int8 or int4.
  std::optional<DType> quantized(const std::string& name) const;
  /// What all of its blocks are; fp32 if they differ.
  DType stored_type(const std::string& name) const;
  /// Reads elements [offset, offset + extent), from however many blocks they lie in, and checks the
  /// checksum of each block read. kBadData names tensor, file and both sums.
  void read(const std::string& name, const std::vector<std::int64_t>& offset,
            const std::vector<std::int64_t>& extent, std::span<float> values);
  /// Reads the stored codes and scales of a quantized tensor, in the order of rows. offset[1] must
  /// be a multiple of kQuantizedBlock.
  QuantizedRows read_quantized(const std::string& name, const std::vector<std::int64_t>& offset,
                               const std::vector<std::int64_t>& extent);

 private:
  struct State;
  explicit CheckpointReader(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

/// Every problem of one checkpoint, one line each (empty: sound).
std::vector<std::string> verify_checkpoint(const std::filesystem::path& path);

}  // namespace moesaic::checkpoint
