#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "hf/peft.h"

namespace moesaic {
class Json;
}

namespace moesaic::checkpoint {

/// Adapters that are added to the weights of a model: of a PEFT folder, or of a checkpoint.
class AdapterSource {
 public:
  /// What one rank reads of it, with which another opens it.
  struct Texts {
    std::string folder;    // empty: there is none
    std::string manifest;  // of a checkpoint; empty: it is a PEFT folder
    hf::PeftTexts peft;
  };
  /// path: a PEFT folder, a checkpoint, or a folder of checkpoints (its newest). kNoInput,
  /// kBadData.
  static Texts read(const std::filesystem::path& path);
  /// The base model's family and config. kBadData: it has no adapter, or not such as this model can
  /// have.
  static AdapterSource of(const Texts& texts, const hf::Family* family, const config::Model& model,
                          const config::Router& router);
  /// Those that a checkpoint has beside its own tensors; the reader must outlive it. scale: as of
  /// scale_of.
  static AdapterSource within(CheckpointReader& reader, float scale);
  /// The scale of the adapters that a checkpoint with this state has; 0: it has none.
  static float scale_of(const Json& state);

  bool has(const std::string& weight) const;
  std::vector<std::string> names() const;  // of the weights that have one
  /// As ModelSource::fingerprint; a checkpoint has no times.
  static std::string fingerprint_of(const Texts& texts, bool with_times);
  std::string fingerprint(bool with_times) const;
  /// Fingerprint of the model that the adapters of a checkpoint were trained on; empty: unknown.
  std::string base_fingerprint() const;
  std::filesystem::path path() const;

  /// values += scale B A in elements [offset, offset + extent) of a weight (out, in), in fp32. Each
  /// element by itself, its sum over the rank in order: no part or rank changes its bits.
  void add_to(const std::string& weight, const std::vector<std::int64_t>& offset,
              const std::vector<std::int64_t>& extent, std::span<float> values);

 private:
  struct Stored {
    CheckpointReader* reader;
    float scale;
  };
  explicit AdapterSource(std::variant<Stored, hf::PeftFolder> source)
      : source_(std::move(source)) {}

  std::shared_ptr<CheckpointReader> own_;  // of one that was opened here
  std::variant<Stored, hf::PeftFolder> source_;
};

}  // namespace moesaic::checkpoint
