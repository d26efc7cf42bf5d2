#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "hf/config.h"
#include "hf/texts.h"

// A model as Hugging Face's transformers keeps it: config.json and model.safetensors, or parts
// model-0000i-of-0000n.safetensors with model.safetensors.index.json.
namespace moesaic::hf {

/// A folder open for reading, under our names and unsharded shapes; any rank may read any part. A
/// file is opened when the first tensor of it is needed.
class HfFolder {
 public:
  static bool is_one(const std::filesystem::path& path);  // whether there is a config.json
  /// As read_hf_texts and `of`.
  static HfFolder open(const std::filesystem::path& path);
  /// Opens it by what read_hf_texts read of it, perhaps on another host; nothing is looked at until
  /// a weight is needed. kBadData.
  static HfFolder of(const std::filesystem::path& path, HfTexts texts);
  HfFolder(HfFolder&&) noexcept;
  HfFolder& operator=(HfFolder&&) noexcept;
  ~HfFolder();

  const std::filesystem::path& path() const;
  const HfConfig& config() const;
  const HfTexts& texts() const;
  /// Opens every file and compares it with the config. kBadData lists all tensors that are missing,
  /// unknown, of another shape, or in a format that cannot be read.
  void check();
  /// Stored tensors of modules behind the last layer, which are not used. Opens every file.
  std::vector<std::string> left_out();

  std::vector<std::string> names() const;  // in the model's order
  /// Unsharded shape, or nothing if the model has no such tensor.
  std::optional<std::vector<std::int64_t>> shape(const std::string& name) const;
  /// The type that holds all numbers of a tensor exactly: fp32, bf16 or fp16. kBadData as `read`.
  DType exact_type(const std::string& name);
  /// Elements [offset, offset + extent), row-major. kBadData if the tensor is missing, has another
  /// shape, or holds what is not a finite number, or if the file is not the one that the texts tell
  /// of.
  void read(const std::string& name, const std::vector<std::int64_t>& offset,
            const std::vector<std::int64_t>& extent, std::span<float> values);

 private:
  struct State;
  explicit HfFolder(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

/// Tokens that begin and end a text, one or several; empty: unknown.
struct SpecialTokens {
  std::vector<std::int32_t> bos, eos;
};
/// bos_token_id and eos_token_id, as generation_config.json or else config.json says; `folder` is
/// named in errors. kBadData.
SpecialTokens special_tokens(const HfTexts& texts, const std::filesystem::path& folder);

/// Reads a part of one of our tensors, as HfFolder::read does.
using ReadPart =
    std::function<void(const std::string& name, const std::vector<std::int64_t>& offset,
                       const std::vector<std::int64_t>& extent, std::span<float> values)>;

struct HfFolderRequest {
  std::filesystem::path folder;
  const Family* family = nullptr;
  config::Model model;
  config::Router router;
  DType type = DType::kBf16;
  std::int64_t shard_bytes = 5'000'000'000;  // a larger tensor has a file of its own
  std::vector<std::filesystem::path> copy;   // sidecar files
  SpecialTokens special = {};
};

/// Collective over world: each rank writes some of the files, rank 0 index and config at last, so
/// that a folder with a config.json is whole. Throws AgreedError on all ranks if it failed on any:
/// kCannotCreate if the folder is not free. Memory: a tensor, or one expert's part of it.
void write_hf_folder(const HfFolderRequest& request, const ReadPart& read,
                     const comm::Communicator& world);

}  // namespace moesaic::hf
