#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "checkpoint/adapter_source.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/lineage.h"
#include "hf/folder.h"

namespace moesaic::checkpoint {

/// Where a model's weights come from: one of our checkpoints, or a Hugging Face folder. Tensors
/// have our names and unsharded shapes; any rank may read any part of any of them.
class ModelSource {
 public:
  /// path: a checkpoint, a folder of checkpoints (its newest complete one), or a folder with a
  /// config.json. kNoInput, kBadData.
  static ModelSource open(const std::filesystem::path& path,
                          const std::filesystem::path& adapter = {}) {
    return of(read(path, adapter));
  }
  /// What one rank reads of it, with which another opens it without looking at its folder.
  struct Texts {
    std::string folder;
    std::string manifest;  // of a checkpoint; empty: it is a Hugging Face folder
    hf::HfTexts theirs;
    std::shared_ptr<Texts> base = {};   // of a checkpoint that holds only what was trained
    AdapterSource::Texts adapter = {};  // that is added to its weights
  };
  /// adapter: as of AdapterSource::read; empty: none. kNoInput, also if the base is gone; kMismatch
  /// if it is another one; kBadData.
  static Texts read(const std::filesystem::path& path, const std::filesystem::path& adapter = {});
  static ModelSource of(const Texts& texts);

  const std::filesystem::path& path() const;
  /// The path, and what is there.
  std::string text() const;
  /// A hash of all that says which weights these are. A Hugging Face folder has no sums: lengths,
  /// times and the last bytes of its files stand for them; without times it is the same for copies
  /// on other hosts.
  enum class Times { kCount, kIgnored };
  std::string fingerprint(Times times = Times::kCount) const;
  /// That of what `of` opens.
  static std::string fingerprint_of(const Texts& texts, Times times);

  /// What it was made with: sections model and router; all else is at its default.
  config::Config config() const;
  std::string vocab_sha256() const;        // empty: unknown
  std::vector<std::string> tasks() const;  // [0] = "none"
  std::vector<std::string> pool() const;   // routing::GateState::pools; empty: as the keys say
  /// As the folder says, or those that the checkpoint was made with. kBadData.
  hf::SpecialTokens special_tokens() const;

  /// Whether it has only what was trained, and the rest is read from its base.
  bool has_base() const { return base_ != nullptr; }
  ModelSource* base() { return base_.get(); }
  /// Whether it has adapters of its own, as training left them.
  bool has_adapters() const { return scale_ != 0.0F; }
  /// The models that this one was trained from, and itself as one of those.
  Lineage lineage() const;
  Ancestor as_ancestor() const;

  /// A run that goes on reads its adapters by their own names. All others read weights that they
  /// are added to: W + scale B A, in fp32, the same numbers whichever part is read; then the
  /// adapters' tensors have no names.
  void keep_adapters_apart(bool apart = true) { merges_ = !apart; }

  // Those of the base, too, where it has only what was trained.
  std::vector<std::string> names() const;
  std::optional<std::vector<std::int64_t>> shape(const std::string& name) const;
  /// As CheckpointReader::read and HfFolder::read.
  void read(const std::string& name, const std::vector<std::int64_t>& offset,
            const std::vector<std::int64_t>& extent, std::span<float> values);

  /// The type in which all numbers of a tensor can be stored exactly: fp32, bf16 or fp16.
  DType exact_type(const std::string& name);

  /// What its weights of products were rounded to (convert.quantize); nothing: they were not.
  std::optional<DType> quantized() const;
  /// As those of CheckpointReader; a folder has no codes.
  std::optional<DType> quantized(const std::string& name) const;
  QuantizedRows read_quantized(const std::string& name, const std::vector<std::int64_t>& offset,
                               const std::vector<std::int64_t>& extent);

  /// nullptr: it is of the other kind.
  CheckpointReader* checkpoint() { return std::get_if<CheckpointReader>(&source_); }
  hf::HfFolder* folder() { return std::get_if<hf::HfFolder>(&source_); }

 private:
  static ModelSource of_folder(const Texts& texts);
  explicit ModelSource(std::variant<CheckpointReader, hf::HfFolder> source)
      : source_(std::move(source)) {}
  const CheckpointReader* checkpoint() const { return std::get_if<CheckpointReader>(&source_); }
  /// Whether a tensor is read from the base.
  bool is_in_base(const std::string& name) const;
  /// Whether an adapter of this checkpoint changes a weight.
  bool is_adapted(const std::string& name) const;
  bool has_own_adapter(const std::string& name) const;

  std::variant<CheckpointReader, hf::HfFolder> source_;
  std::shared_ptr<ModelSource> base_;
  bool merges_ = true;
  float scale_ = 0.0F;                       // of its own adapters; 0: it has none
  std::shared_ptr<AdapterSource> attached_;  // model.adapter
};

}  // namespace moesaic::checkpoint
