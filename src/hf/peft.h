#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/share.h"
#include "comm/communicator.h"
#include "config/config.h"
#include "hf/folder.h"

// LoRA adapters as Hugging Face's PEFT keeps them: adapter_config.json and
// adapter_model.safetensors. An update of a base weight W (out, in) is scale B A, with A (r, in)
// and B (out, r).
namespace moesaic::hf {

struct Family;

/// What a start reads of such a folder, as one rank reads it and hands it to the others.
struct PeftTexts {
  std::string config;   // adapter_config.json
  std::string tensors;  // JSON {"NAME": {"dtype", "shape"}} of adapter_model.safetensors
  std::string weights;  // as HfTexts::weights
};

/// Reads them. kNoInput if a file is missing; kBadData if the header is damaged.
PeftTexts read_peft_texts(const std::filesystem::path& folder);

/// As that of HfTexts.
std::string fingerprint(const PeftTexts& texts, bool with_times);

/// An adapter open for reading, under our names of the base weights that it updates
/// ("model.layers.3.self_attn.q_proj.weight"); any rank may read any part. The weights file is
/// opened when the first part of it is needed.
///
/// Experts may be stored one by one or all of a layer together. Where gate_proj and up_proj of an
/// expert are one stored product, they have the same A.
class PeftFolder {
 public:
  /// Whether both files are there.
  static bool is_one(const std::filesystem::path& path);
  /// As read_peft_texts and `of`.
  static PeftFolder open(const std::filesystem::path& path, const Family& family,
                         const config::Model& model, const config::Router& router);
  /// Opens it by what read_peft_texts read of it, perhaps on another host. The arguments behind are
  /// those of the base model. kBadData lists every key of the config that is not supported, or
  /// else all tensors that are missing, unknown to the model, of another shape, or in a format
  /// that cannot be read.
  static PeftFolder of(const std::filesystem::path& path, PeftTexts texts, const Family& family,
                       const config::Model& model, const config::Router& router);
  PeftFolder(PeftFolder&&) noexcept;
  PeftFolder& operator=(PeftFolder&&) noexcept;
  ~PeftFolder();

  const std::filesystem::path& path() const;
  const PeftTexts& texts() const;
  const std::string& base_name() const;  // base_model_name_or_path; may be empty
  double dropout() const;                // lora_dropout, which only training applies

  std::vector<std::string> names() const;  // of the updated weights, in the model's order
  bool has(const std::string& name) const;
  // Below, kInternal if the adapter does not update `name`.
  double scale(const std::string& name) const;  // alpha / r, or alpha / sqrt(r) with use_rslora
  double alpha(const std::string& name) const;
  std::int64_t rank(const std::string& name) const;
  /// Whether scales are alpha / sqrt(r).
  bool rslora() const;
  /// Columns of A: values (r, columns.count), row-major. kBadData if a number is not finite, or if
  /// the file is not the one that the texts tell of.
  void read_a(const std::string& name, Slice columns, std::span<float> values);
  /// Rows of B: values (rows.count, r), row-major. Throws as read_a.
  void read_b(const std::string& name, Slice rows, std::span<float> values);

 private:
  struct State;
  explicit PeftFolder(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

struct PeftFolderRequest {
  std::filesystem::path folder;
  const Family* family = nullptr;
  config::Model model;  // of the base
  config::Router router;
  std::vector<std::string> names;  // of the updated weights: matrices but embedding and head
  std::int64_t rank = 0;
  double alpha = 0.0;
  bool rslora = false;
  std::string base_name = {};  // base_model_name_or_path
  DType type = DType::kF32;
};

/// Collective over world: rank 0 writes both files, the config last, so that a folder with one is
/// whole. `read` serves, for each name NAME.weight, NAME.lora_A.weight (r, in) and
/// NAME.lora_B.weight (out, r), on rank 0 alone.
///
/// Experts are written one by one, and those of a layer all together, gate_proj and up_proj with
/// down_proj, as PEFT asks for: what has no update is zeros. Experts that a family stacks are
/// written as one product, with twice the rank for gate_proj and up_proj.
///
/// Throws AgreedError on all ranks: kCannotCreate if the folder is not free, kUsage if a name is
/// none that may have an adapter, kBadNumbers if a value is not finite. Memory: a tensor of the
/// file.
void write_peft_folder(const PeftFolderRequest& request, const ReadPart& read,
                       const comm::Communicator& world);

}  // namespace moesaic::hf
