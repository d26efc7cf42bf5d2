#include "hf/peft.h"

#include <fmt/format.h>

#include <cmath>
#include <map>
#include <numeric>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/json.h"
#include "files/durable.h"
#include "hf/family.h"
#include "hf/peft_config.h"
#include "hf/peft_places.h"
#include "hf/peft_tensors.h"
#include "hf/safetensors/safetensors.h"
#include "hf/texts.h"

namespace moesaic::hf {
namespace {

namespace fs = std::filesystem;
using Extents = std::vector<std::int64_t>;

constexpr std::size_t kMostUnpacked = 2;  // tensors of all experts that are kept: gate_up and down

[[noreturn]] void fail(const fs::path& file, const std::string& what) {
  throw Error(Exit::kBadData, fmt::format("{}: {}", file.string(), what));
}

/// Shapes tell how joined experts are stored, unless all are square; then the version does.
Joined joined_in(const PeftTensors& table, const std::vector<HfTensor>& tensors,
                 const Family& family, const config::Model& model, const PeftConfig& config) {
  for (const HfTensor& tensor : tensors) {
    if (!may_be_adapted(tensor) || experts_of(tensor.name).empty() ||
        !config.targets(joined_parameter(tensor))) {
      continue;
    }
    const auto fits = [&](Joined joined) {
      const PeftPlace place = peft_places(tensor, family, model, config, joined).back();
      return table.fits(place.a) && table.fits(place.b);
    };
    const bool as_named = fits(Joined::kAsNamed), exchanged = fits(Joined::kExchanged);
    if (as_named != exchanged) {
      return exchanged ? Joined::kExchanged : Joined::kAsNamed;
    }
  }
  const bool old = config.before_0_19 && family.stacked == nullptr;
  return old ? Joined::kExchanged : Joined::kAsNamed;
}

}  // namespace

struct PeftFolder::State {
  struct Update {
    std::string name;  // of the base weight
    std::int64_t out = 0, in = 0;
    PeftPlace place;
    double alpha = 0.0;
  };

  fs::path path;
  PeftTexts texts;
  PeftConfig config;
  std::vector<Update> updates;
  std::map<std::string, std::size_t> by_name;
  std::optional<SafetensorsFile> file;
  std::map<std::string, std::vector<float>> unpacked;  // the last tensors of all experts

  void find_updates(const Family& family, const config::Model& model, const config::Router& router);
  const Update& update(const std::string& name) const;
  const SafetensorsFile& opened();
  /// Reads a part of A or of B.
  void read(const Update& update, bool is_a, const Extents& offset, const Extents& extent,
            std::span<float> values);
  void read_from_all(const HfView& view, const Extents& offset, const Extents& extent,
                     std::span<float> values);
};

void PeftFolder::State::find_updates(const Family& family, const config::Model& model,
                                     const config::Router& router) {
  PeftTensors table(texts.tensors);
  const std::vector<HfTensor> tensors = hf_tensors(family, model, router);
  const Joined joined = joined_in(table, tensors, family, model, config);
  for (const HfTensor& tensor : tensors) {
    if (!may_be_adapted(tensor)) {
      continue;
    }
    for (PeftPlace& place : peft_places(tensor, family, model, config, joined)) {
      if (!table.has(place.a) && !table.has(place.b)) {
        continue;
      }
      table.complete(place.a);
      table.complete(place.b);
      if (by_name.emplace(tensor.name, updates.size()).second) {
        const double alpha = config.alpha_of(place.key);
        updates.push_back({tensor.name, tensor.shape[0], tensor.shape[1], std::move(place), alpha});
      } else {
        table.stored_again(tensor.name);
      }
    }
  }
  const std::string problems = table.problems();
  if (!problems.empty()) {
    fail(path / kPeftWeightsName,
         fmt::format("the tensors are not those of an adapter of this {} model:{}", family.name,
                     problems));
  }
  if (updates.empty()) {
    fail(path / kPeftWeightsName, "has no tensors");
  }
}

const PeftFolder::State::Update& PeftFolder::State::update(const std::string& name) const {
  const auto found = by_name.find(name);
  require(found != by_name.end(), name + ": the adapter does not update it");
  return updates[found->second];
}

const SafetensorsFile& PeftFolder::State::opened() {
  if (!file) {
    SafetensorsFile found = SafetensorsFile::open(path / kPeftWeightsName);
    if (weights_marks(texts.weights)[kPeftWeightsName] != found.mark()) {
      fail(found.path(),
           "is another file than rank 0 found there: copy the same folder to all hosts");
    }
    file = std::move(found);
  }
  return *file;
}

void PeftFolder::State::read(const Update& update, bool is_a, const Extents& offset,
                             const Extents& extent, std::span<float> values) {
  const HfView& view = is_a ? update.place.a : update.place.b;
  // What PEFT calls B.
  const bool is_scattered = update.place.joined && is_a == update.place.exchanged;
  if (is_scattered) {
    read_from_all(view, offset, extent, values);
    return;
  }
  const std::int64_t first =
      std::inner_product(offset.begin(), offset.end(), view.strides.begin(), view.first);
  opened().read(view.tensor, Strided{first, view.strides, extent}, values);
}

/// The columns of one expert lie apart, so that each expert would read nearly all of the tensor.
void PeftFolder::State::read_from_all(const HfView& view, const Extents& offset,
                                      const Extents& extent, std::span<float> values) {
  auto found = unpacked.find(view.tensor);
  if (found == unpacked.end()) {
    if (unpacked.size() == kMostUnpacked) {
      unpacked.clear();
    }
    std::vector<float> all(static_cast<std::size_t>(view.shape[0] * view.shape[1]));
    opened().read(view.tensor, {0, 0}, view.shape, all);
    found = unpacked.emplace(view.tensor, std::move(all)).first;
  }
  std::size_t to = 0;
  for (std::int64_t row = offset[0]; row < offset[0] + extent[0]; ++row) {
    for (std::int64_t column = offset[1]; column < offset[1] + extent[1]; ++column) {
      const std::int64_t at = view.first + row * view.strides[0] + column * view.strides[1];
      values[to++] = found->second[static_cast<std::size_t>(at)];
    }
  }
}

PeftTexts read_peft_texts(const fs::path& folder) {
  PeftTexts texts;
  texts.config = read_bounded(folder / kPeftConfigName, kMostConfigBytes);
  const fs::path weights = folder / kPeftWeightsName;
  if (!files::is_there(weights)) {
    throw Error(Exit::kNoInput,
                fmt::format("{}: has no {}; PEFT's save_pretrained writes it from other formats",
                            fs::absolute(folder).string(), kPeftWeightsName));
  }
  const SafetensorsFile file = SafetensorsFile::open(weights);
  Json tensors = Json::object();
  for (const auto& [name, tensor] : file.tensors()) {
    tensors[name] = {{"dtype", tensor.dtype}, {"shape", tensor.shape}};
  }
  texts.tensors = tensors.dump();
  texts.weights = weights_line(weights);
  return texts;
}

std::string fingerprint(const PeftTexts& texts, bool with_times) {
  return fingerprint(HfTexts{texts.config, "", "", texts.weights}, with_times);
}

PeftFolder::PeftFolder(std::unique_ptr<State> state) : state_(std::move(state)) {}
PeftFolder::PeftFolder(PeftFolder&&) noexcept = default;
PeftFolder& PeftFolder::operator=(PeftFolder&&) noexcept = default;
PeftFolder::~PeftFolder() = default;

bool PeftFolder::is_one(const fs::path& path) {
  const auto has = [&](const char* name) {
    return files::is_there(path / name) && !files::is_folder(path / name);
  };
  return has(kPeftConfigName) && has(kPeftWeightsName);
}

PeftFolder PeftFolder::open(const fs::path& path, const Family& family, const config::Model& model,
                            const config::Router& router) {
  return of(path, read_peft_texts(path), family, model, router);
}

PeftFolder PeftFolder::of(const fs::path& path, PeftTexts texts, const Family& family,
                          const config::Model& model, const config::Router& router) {
  auto state = std::make_unique<State>();
  state->path = path;
  state->config = parse_peft_config(texts.config, (path / kPeftConfigName).string());
  state->texts = std::move(texts);
  state->find_updates(family, model, router);
  return PeftFolder(std::move(state));
}

const fs::path& PeftFolder::path() const { return state_->path; }
const PeftTexts& PeftFolder::texts() const { return state_->texts; }
const std::string& PeftFolder::base_name() const { return state_->config.base_name; }
double PeftFolder::dropout() const { return state_->config.dropout; }
bool PeftFolder::rslora() const { return state_->config.rslora; }
bool PeftFolder::has(const std::string& name) const { return state_->by_name.contains(name); }

std::vector<std::string> PeftFolder::names() const {
  std::vector<std::string> names;
  for (const State::Update& update : state_->updates) {
    names.push_back(update.name);
  }
  return names;
}

double PeftFolder::alpha(const std::string& name) const { return state_->update(name).alpha; }

std::int64_t PeftFolder::rank(const std::string& name) const {
  return state_->update(name).place.rank;
}

double PeftFolder::scale(const std::string& name) const {
  const auto r = static_cast<double>(rank(name));
  return alpha(name) / (rslora() ? std::sqrt(r) : r);
}

void PeftFolder::read_a(const std::string& name, Slice columns, std::span<float> values) {
  const State::Update& update = state_->update(name);
  const Extents offset{0, columns.begin}, extent{update.place.rank, columns.count};
  require_part(name, {update.place.rank, update.in}, offset, extent, values.size());
  state_->read(update, true, offset, extent, values);
}

void PeftFolder::read_b(const std::string& name, Slice rows, std::span<float> values) {
  const State::Update& update = state_->update(name);
  const Extents offset{rows.begin, 0}, extent{rows.count, update.place.rank};
  require_part(name, {update.out, update.place.rank}, offset, extent, values.size());
  state_->read(update, false, offset, extent, values);
}

}  // namespace moesaic::hf
