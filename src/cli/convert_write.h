#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "checkpoint/calibration.h"
#include "checkpoint/catalog.h"
#include "checkpoint/model_source.h"
#include "comm/communicator.h"
#include "config/config.h"
#include "config/options.h"
#include "hf/folder.h"

namespace moesaic::cli {

/// What the job convert reads and makes.
struct ConvertInputs {
  config::Config config;  // of the model, on the ranks of this job
  routing::GateState gates = {};
  std::filesystem::path source, out;
  bool to_folder = false, to_peft = false;
  const hf::Family* family = nullptr;  // of the folder that is read or written
  std::string text;                    // of the source
  std::vector<std::string> tasks;      // [0] = "none"
  std::string vocab_sha256;            // empty: unknown
};

/// What `convert IN OUT` asks for; the paths are the command's arguments. The catalog has the model
/// of IN then. kUsage, kNoInput, kBadData, kMismatch.
ConvertInputs read_convert_inputs(config::Parsed parsed, int ranks, checkpoint::Catalog& catalog);

/// convert.dtype, without auto.
DType dtype_of(const ConvertInputs& inputs);

// Tensors go through memory one at a time, shared out over the ranks. Both return what was made,
// call on_progress on each rank before each tensor, and are collective over world.

/// A checkpoint of step 0, as if training had begun with these weights.
std::filesystem::path write_checkpoint(const ConvertInputs& inputs, checkpoint::ModelSource& source,
                                       const checkpoint::Calibration& calibration,
                                       const comm::Communicator& world,
                                       const std::function<void()>& on_progress);
std::filesystem::path write_folder(const ConvertInputs& inputs, checkpoint::ModelSource& source,
                                   const comm::Communicator& world,
                                   const std::function<void()>& on_progress);
/// The adapters of a checkpoint as a PEFT folder.
std::filesystem::path write_adapters(const ConvertInputs& inputs, checkpoint::ModelSource& source,
                                     const comm::Communicator& world,
                                     const std::function<void()>& on_progress);
/// The one of these that the inputs ask for; a checkpoint without calibration.
std::filesystem::path write_copy(const ConvertInputs& inputs, checkpoint::ModelSource& source,
                                 const checkpoint::Calibration& calibration,
                                 const comm::Communicator& world,
                                 const std::function<void()>& on_progress);

}  // namespace moesaic::cli
