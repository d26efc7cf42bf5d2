#include "hf/folder.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <map>
#include <numeric>
#include <set>

#include "base/error.h"
#include "base/json.h"
#include "base/text.h"
#include "files/durable.h"
#include "files/strict_json.h"
#include "hf/safetensors/safetensors.h"
#include "hf/tensor_names.h"
#include "hf/tensor_problems.h"
#include "hf/tensors.h"

namespace moesaic::hf {
namespace {

namespace fs = std::filesystem;
using Extents = std::vector<std::int64_t>;

constexpr const char* kTiedName = "lm_head.weight";
constexpr const char* kScaleSuffix = "_scale_inv";
constexpr std::int64_t kScaledBlock = 128;  // rows and columns that share a scale

[[noreturn]] void fail(const fs::path& file, const std::string& what) {
  throw Error(Exit::kBadData, fmt::format("{}: {}", file.string(), what));
}

/// File of each stored tensor, as the index says.
std::map<std::string, std::string> parse_index(const std::string& text, const fs::path& file) {
  const Json index = files::parse_strict_json(text, 8, file.string() + ": the file");
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
    fail(file, "has no object 'weight_map'");
  }
  std::map<std::string, std::string> files;
  for (const auto& [name, value] : index["weight_map"].items()) {
    const std::string part = value.is_string() ? value.get<std::string>() : "";
    if (part.empty() || part == ".." || part.find('/') != std::string::npos) {
      fail(file, fmt::format("says that {} lies in {}, which is no file of the folder", name,
                             value.dump()));
    }
    files[name] = part;
  }
  return files;
}

Extents scale_shape(const Extents& shape) {
  Extents blocks = shape;
  for (std::int64_t& extent : blocks) {
    extent = (extent + kScaledBlock - 1) / kScaledBlock;
  }
  return blocks;
}

}  // namespace

struct HfFolder::State {
  fs::path path;
  HfTexts texts;
  HfConfig config;
  std::vector<HfTensor> tensors;
  std::map<std::string, std::size_t> by_name;
  std::map<std::string, std::string> index;            // of stored tensors; empty: one file
  std::map<std::string, std::set<std::string>> parts;  // the index by files
  std::map<std::string, std::string> marks;            // of the weights files
  std::map<std::string, SafetensorsFile> open_files;

  const SafetensorsFile& file(const std::string& name);
  void check_against_index(const SafetensorsFile& opened, const std::string& name);
  void open_all();
  /// The file with a stored tensor, or none.
  const SafetensorsFile* find(const std::string& stored);
  bool is_left_out(const std::string& stored) const;
  bool is_ignored(const std::string& stored) const;
  const HfTensor& tensor(const std::string& name) const;
  std::string format_problem(const std::string& name, const SafeTensor& stored);
  void apply_scales(const std::string& stored, const Extents& offset, const Extents& extent,
                    std::span<float> values);
};

const SafetensorsFile& HfFolder::State::file(const std::string& name) {
  const auto found = open_files.find(name);
  if (found != open_files.end()) {
    return found->second;
  }
  SafetensorsFile opened = SafetensorsFile::open(path / name);
  const auto mark = marks.find(name);
  if (mark != marks.end() && opened.mark() != mark->second) {
    fail(opened.path(),
         "is another file than rank 0 found there: copy the same folder to all hosts");
  }
  if (!index.empty()) {
    check_against_index(opened, name);
  }
  return open_files.emplace(name, std::move(opened)).first->second;
}

void HfFolder::State::check_against_index(const SafetensorsFile& opened, const std::string& name) {
  const std::set<std::string>& said = parts[name];
  for (const auto& [tensor, stored] : opened.tensors()) {
    if (!said.contains(tensor)) {
      fail(opened.path(),
           fmt::format("holds tensor {}, which {} does not say", tensor, kIndexName));
    }
  }
  for (const std::string& tensor : said) {
    if (!opened.tensors().contains(tensor)) {
      fail(opened.path(), fmt::format("has no tensor {}, but {} says so", tensor, kIndexName));
    }
  }
}

void HfFolder::State::open_all() {
  if (index.empty()) {
    file(kOneFile);
  }
  for (const auto& [part, tensors_of_it] : parts) {
    file(part);
  }
}

const SafetensorsFile* HfFolder::State::find(const std::string& stored) {
  const auto said = index.find(stored);
  if (!index.empty() && said == index.end()) {
    return nullptr;
  }
  const SafetensorsFile& opened = file(index.empty() ? kOneFile : said->second);
  return opened.tensors().contains(stored) ? &opened : nullptr;
}

bool HfFolder::State::is_left_out(const std::string& stored) const {
  constexpr std::string_view kPrefix = "model.layers.";
  if (!config.has_extra_layers || !stored.starts_with(kPrefix)) {
    return false;
  }
  std::int64_t layer = -1;
  const auto [end, error] =
      std::from_chars(stored.data() + kPrefix.size(), stored.data() + stored.size(), layer);
  return error == std::errc() && *end == '.' && layer >= config.model.layers;
}

/// Buffers of older versions, and an output layer that repeats the embedding.
bool HfFolder::State::is_ignored(const std::string& stored) const {
  return stored.ends_with("rotary_emb.inv_freq") ||
         (stored == kTiedName && config.model.tie_embeddings);
}

const HfTensor& HfFolder::State::tensor(const std::string& name) const {
  const auto found = by_name.find(name);
  if (found == by_name.end()) {
    fail(path / kConfigName, fmt::format("the model has no tensor {}", name));
  }
  return tensors[found->second];
}

/// Why a stored tensor cannot be turned into numbers; scales are looked up for e4m3 alone.
std::string HfFolder::State::format_problem(const std::string& name, const SafeTensor& stored) {
  if (!stored_dtype(stored.dtype)) {
    return fmt::format("{} ({})", name, stored.dtype);
  }
  if (stored_dtype(stored.dtype) != DType::kE4m3) {
    return "";
  }
  if (!config.has_fp8 || stored.shape.size() != 2) {
    return fmt::format("{} (e4m3, but {})", name,
                       config.has_fp8 ? "not a matrix" : "config.json has no quantization_config");
  }
  const std::string scale = name + kScaleSuffix;
  const SafetensorsFile* holder = find(scale);
  if (holder == nullptr) {
    return fmt::format("{} (e4m3, without {})", name, scale);
  }
  const Extents due = scale_shape(stored.shape);
  const SafeTensor& scales = holder->tensors().at(scale);
  if (scales.shape != due || scales.dtype != "F32") {
    return fmt::format("{} ({} [{}], due: F32 [{}])", scale, scales.dtype, join(scales.shape, ", "),
                       join(due, ", "));
  }
  return "";
}

void HfFolder::State::apply_scales(const std::string& stored, const Extents& offset,
                                   const Extents& extent, std::span<float> values) {
  const std::string name = stored + kScaleSuffix;
  Extents first(2), blocks(2);
  for (std::size_t i = 0; i < 2; ++i) {
    first[i] = offset[i] / kScaledBlock;
    blocks[i] = (offset[i] + extent[i] - 1) / kScaledBlock + 1 - first[i];
  }
  std::vector<float> scales(static_cast<std::size_t>(blocks[0] * blocks[1]));
  find(name)->read(name, first, blocks, scales);
  for (std::int64_t row = 0; row < extent[0]; ++row) {
    const std::int64_t block_row = (offset[0] + row) / kScaledBlock - first[0];
    for (std::int64_t column = 0; column < extent[1]; ++column) {
      const std::int64_t block = (offset[1] + column) / kScaledBlock - first[1];
      float& value = values[static_cast<std::size_t>(row * extent[1] + column)];
      value *= scales[static_cast<std::size_t>(block_row * blocks[1] + block)];
      if (!std::isfinite(value)) {
        fail(path, fmt::format("tensor {} times its scale is not finite at [{}, {}]", stored,
                               offset[0] + row, offset[1] + column));
      }
    }
  }
}

HfFolder::HfFolder(std::unique_ptr<State> state) : state_(std::move(state)) {}
HfFolder::HfFolder(HfFolder&&) noexcept = default;
HfFolder& HfFolder::operator=(HfFolder&&) noexcept = default;
HfFolder::~HfFolder() = default;

bool HfFolder::is_one(const fs::path& path) {
  return files::is_there(path / kConfigName) && !files::is_folder(path / kConfigName);
}

HfFolder HfFolder::open(const fs::path& path) { return of(path, read_hf_texts(path)); }

HfFolder HfFolder::of(const fs::path& path, HfTexts texts) {
  auto state = std::make_unique<State>();
  state->path = path;
  state->config = parse_hf_config(texts.config, (path / kConfigName).string());
  state->tensors = hf_tensors(*state->config.family, state->config.model, state->config.router);
  for (std::size_t i = 0; i < state->tensors.size(); ++i) {
    state->by_name[state->tensors[i].name] = i;
  }
  state->marks = weights_marks(texts.weights);
  if (!texts.index.empty()) {
    state->index = parse_index(texts.index, path / kIndexName);
    if (state->index.empty()) {
      fail(path / kIndexName, "lists no tensor");
    }
    for (const auto& [tensor, part] : state->index) {
      state->parts[part].insert(tensor);
    }
  }
  state->texts = std::move(texts);
  return HfFolder(std::move(state));
}

const fs::path& HfFolder::path() const { return state_->path; }
const HfConfig& HfFolder::config() const { return state_->config; }
const HfTexts& HfFolder::texts() const { return state_->texts; }

void HfFolder::check() {
  state_->open_all();
  std::set<std::string> due, seen;
  std::vector<std::string> missing, shapes, formats, unknown;
  for (const HfTensor& tensor : state_->tensors) {
    const std::string& stored = tensor.view.tensor;
    if (!due.insert(stored).second) {
      continue;
    }
    const SafetensorsFile* holder = state_->find(stored);
    if (holder == nullptr) {
      missing.push_back(stored);
      continue;
    }
    const SafeTensor& found = holder->tensors().at(stored);
    if (const std::string problem = shape_problem(stored, found.shape, tensor.view.shape);
        !problem.empty()) {
      shapes.push_back(problem);
    }
    if (const std::string problem = state_->format_problem(stored, found); !problem.empty()) {
      formats.push_back(problem);
    }
    if (found.dtype == "F8_E4M3") {
      seen.insert(stored + kScaleSuffix);
    }
  }
  for (const auto& [name, file] : state_->open_files) {
    for (const auto& [stored, tensor] : file.tensors()) {
      if (!due.contains(stored) && !seen.contains(stored) && !state_->is_ignored(stored) &&
          !state_->is_left_out(stored)) {
        unknown.push_back(stored);
      }
    }
  }
  std::string message;
  list_tensors(message, missing, "missing");
  list_tensors(message, unknown, "that the model does not have");
  list_tensors(message, shapes, "of another shape");
  list_tensors(message, formats, "in a format that cannot be read");
  if (!message.empty()) {
    fail(state_->path, fmt::format("the tensors are not those of its {}:{}", kConfigName, message));
  }
}

std::vector<std::string> HfFolder::left_out() {
  state_->open_all();
  std::vector<std::string> names;
  for (const auto& [name, file] : state_->open_files) {
    for (const auto& [stored, tensor] : file.tensors()) {
      if (state_->is_left_out(stored)) {
        names.push_back(stored);
      }
    }
  }
  return names;
}

std::vector<std::string> HfFolder::names() const {
  std::vector<std::string> names;
  for (const HfTensor& tensor : state_->tensors) {
    names.push_back(tensor.name);
  }
  return names;
}

std::optional<Extents> HfFolder::shape(const std::string& name) const {
  const auto found = state_->by_name.find(name);
  return found == state_->by_name.end() ? std::nullopt
                                        : std::optional(state_->tensors[found->second].shape);
}

DType HfFolder::exact_type(const std::string& name) {
  const std::string& stored = state_->tensor(name).view.tensor;
  const SafetensorsFile* const file = state_->find(stored);
  if (file == nullptr) {
    fail(state_->path, fmt::format("has no tensor {}", stored));
  }
  const auto type = stored_dtype(file->tensors().at(stored).dtype);
  return type == DType::kBf16 || type == DType::kF16 ? *type : DType::kF32;
}

void HfFolder::read(const std::string& name, const Extents& offset, const Extents& extent,
                    std::span<float> values) {
  const HfTensor& tensor = state_->tensor(name);
  const HfView& view = tensor.view;
  require_part(name, tensor.shape, offset, extent, values.size());
  const SafetensorsFile* file = state_->find(view.tensor);
  if (file == nullptr) {
    fail(state_->path, fmt::format("has no tensor {}", view.tensor));
  }
  const SafeTensor& stored = file->tensors().at(view.tensor);
  for (const std::string& problem : {shape_problem(view.tensor, stored.shape, view.shape),
                                     state_->format_problem(view.tensor, stored)}) {
    if (!problem.empty()) {
      fail(file->path(), "cannot use tensor " + problem);
    }
  }
  if (values.empty()) {
    return;
  }
  const std::int64_t first =
      std::inner_product(offset.begin(), offset.end(), view.strides.begin(), view.first);
  file->read(view.tensor, Strided{first, view.strides, extent}, values);
  if (stored.dtype == "F8_E4M3") {
    state_->apply_scales(view.tensor, offset, extent, values);
  }
}

}  // namespace moesaic::hf
