#include "cli/convert_write.h"

#include <fmt/format.h>

#include <map>
#include <optional>

#include "base/error.h"
#include "base/log.h"
#include "base/text.h"
#include "checkpoint/manifest.h"
#include "checkpoint/quantize.h"
#include "comm/stop.h"
#include "files/durable.h"
#include "hf/peft.h"
#include "hf/unfinished.h"
#include "model/parameter/adapter_rules.h"
#include "text/tokenizer.h"
#include "train/resume.h"

namespace moesaic::cli {
namespace {

namespace fs = std::filesystem;

std::vector<std::int64_t> zeros_like(const std::vector<std::int64_t>& shape) {
  return std::vector<std::int64_t>(shape.size(), 0);
}

// Moments and other sums of training have a folder in their names.
bool is_of_training(const std::string& name) { return name.find('/') != std::string::npos; }

/// Makes the blocks of a checkpoint; it must outlive them.
class Blocks {
 public:
  Blocks(const ConvertInputs& inputs, checkpoint::ModelSource& source,
         const checkpoint::Calibration& calibration)
      : source_(source),
        calibration_(calibration),
        backend_(make_cpu_backend(static_cast<int>(inputs.config.run.threads))),
        kinds_(checkpoint::stored_kinds(inputs.config.model, inputs.config.router, inputs.gates)),
        dtype_(dtype_of(inputs)),
        quantize_(inputs.config.convert.quantize) {}

  const checkpoint::ModelSource& source() const { return source_; }
  std::vector<std::string> names() const {
    std::vector<std::string> names = source_.names();
    std::erase_if(names, is_of_training);
    return names;
  }

  double fp32_bytes() const {
    double bytes = 0.0;
    for (const std::string& name : names()) {
      bytes += static_cast<double>(sizeof(float)) *
               static_cast<double>(checkpoint::volume(*source_.shape(name)));
    }
    return bytes;
  }

  checkpoint::BlockToSave of(const std::string& name) {
    const std::vector<std::int64_t> shape = *source_.shape(name);
    const auto kind = kinds_.find(name);
    const bool known = kind != kinds_.end();
    checkpoint::BlockToSave block{.name = name,
                                  .shape = shape,
                                  .offset = zeros_like(shape),
                                  .extent = shape,
                                  .values = [this, name, shape] { return values(name, shape); }};
    if (known && kind->second.packable && quantize_) {
      block.type = *quantize_;
      block.rows = [this, name, shape] { return rows(name, shape, *quantize_); };
    } else if (known && !kind->second.state) {
      block.type = dtype_;
    }
    return block;
  }

 private:
  std::vector<float> values(const std::string& name, const std::vector<std::int64_t>& shape) {
    comm::check_stop("writing the copy");
    std::vector<float> values(static_cast<std::size_t>(checkpoint::volume(shape)));
    source_.read(name, zeros_like(shape), shape, values);
    return values;
  }

  QuantizedRows rows(const std::string& name, const std::vector<std::int64_t>& shape, DType type) {
    const auto mean_squares = calibration_.mean_squares.find(name);
    try {
      return checkpoint::quantize(*backend_, type, values(name, shape), shape[0], shape[1],
                                  mean_squares == calibration_.mean_squares.end()
                                      ? std::span<const float>()
                                      : std::span(mean_squares->second));
    } catch (const Error& error) {
      throw Error(error.code(), fmt::format("tensor {}: {}", name, error.what()));
    }
  }

  checkpoint::ModelSource& source_;
  const checkpoint::Calibration& calibration_;
  std::unique_ptr<Backend> backend_;
  std::map<std::string, checkpoint::StoredKind> kinds_;
  DType dtype_;
  std::optional<DType> quantize_;
};

// Sidecar files of the weights: those of the source's manifest, or of the folder, whose tokenizer
// is written as we keep it.
struct SidecarFiles {
  std::vector<fs::path> files;
  std::map<std::string, std::string> texts;
  std::string vocab_sha256;
};
SidecarFiles sidecar_files_of(const ConvertInputs& inputs, checkpoint::ModelSource& source) {
  SidecarFiles sidecars{.files = {}, .texts = {}, .vocab_sha256 = inputs.vocab_sha256};
  if (source.checkpoint() != nullptr) {
    for (const std::string& name : source.checkpoint()->sidecar_files()) {
      sidecars.files.push_back(inputs.source / name);
    }
    return sidecars;
  }
  sidecars.files = hf::sidecar_files(inputs.source);
  if (text::Tokenizer::is_in(inputs.source)) {
    const auto tokenizer = text::Tokenizer::load(inputs.source);
    sidecars.vocab_sha256 = tokenizer.sha256();
    sidecars.texts[tokenizer.file_name()] = tokenizer.model();
    std::erase_if(sidecars.files,
                  [&](const fs::path& file) { return file.filename() == tokenizer.file_name(); });
  }
  return sidecars;
}

void print_bytes(const fs::path& made, double fp32_bytes) {
  double bytes = 0.0;
  for (const auto& [name, file] : checkpoint::read_manifest(made).parts) {
    bytes += static_cast<double>(file.bytes);
  }
  constexpr double kBits = 32.0;
  log::print(fmt::format("weights: {} in fp32 -> {}, {:.2f} bits each", short_bytes(fp32_bytes),
                         short_bytes(bytes), kBits * bytes / fp32_bytes));
}

}  // namespace

DType dtype_of(const ConvertInputs& inputs) {
  return inputs.config.convert.dtype.value_or(inputs.to_folder ? DType::kBf16 : DType::kF32);
}

fs::path write_checkpoint(const ConvertInputs& inputs, checkpoint::ModelSource& source,
                          const checkpoint::Calibration& calibration,
                          const comm::Communicator& world,
                          const std::function<void()>& on_progress) {
  SidecarFiles sidecars;
  world.together("read the tokenizer", [&] {
    sidecars = sidecar_files_of(inputs, source);
    if (world.is_root()) {
      files::make_folder(inputs.out);
      hf::clear_written(inputs.out);  // by a conversion to a folder that did not end
    }
  });
  Blocks all(inputs, source, calibration);
  std::vector<checkpoint::BlockToSave> blocks;
  std::int64_t number = 0;
  for (const std::string& name : all.names()) {
    if (number++ % world.size() == world.rank()) {
      blocks.push_back(all.of(name));
    }
  }
  const checkpoint::Ancestor original = source.as_ancestor();
  train::Progress start{.tasks = inputs.tasks,
                        .special = all.source().special_tokens(),
                        .control = {},
                        .lineage = source.lineage(),
                        .objective = original.objective};
  start.lineage.push_back(original);
  const auto state = train::to_state(start, inputs.config, inputs.gates, "",
                                     {.vocab_sha256 = sidecars.vocab_sha256});
  fs::path saved = checkpoint::save_checkpoint({.dir = inputs.out,
                                                .step = 0,
                                                .state = *state,
                                                .copy = sidecars.files,
                                                .texts = sidecars.texts,
                                                .on_progress = on_progress},
                                               blocks, world);
  if (world.is_root()) {
    print_bytes(saved, all.fp32_bytes());
  }
  return saved;
}

fs::path write_folder(const ConvertInputs& inputs, checkpoint::ModelSource& source,
                      const comm::Communicator& world, const std::function<void()>& on_progress) {
  const config::Config config = source.folder() != nullptr ? source.config() : inputs.config;
  hf::write_hf_folder(
      {.folder = inputs.out,
       .family = inputs.family,
       .model = config.model,
       .router = config.router,
       .type = dtype_of(inputs),
       .copy = hf::sidecar_files(inputs.source),
       .special = source.special_tokens()},
      [&](const std::string& name, const std::vector<std::int64_t>& offset,
          const std::vector<std::int64_t>& extent, std::span<float> values) {
        comm::check_stop("writing the copy");
        on_progress();
        source.read(name, offset, extent, values);
      },
      world);
  return inputs.out;
}

fs::path write_adapters(const ConvertInputs& inputs, checkpoint::ModelSource& source,
                        const comm::Communicator& world, const std::function<void()>& on_progress) {
  const config::Adapter adapter = train::config_of(source.checkpoint()->state()).adapter;
  const auto scale = static_cast<float>(model::adapter_scale(adapter));
  const checkpoint::Lineage lineage = source.lineage();
  hf::write_peft_folder(
      {.folder = inputs.out,
       .family = inputs.family,
       .model = inputs.config.model,
       .router = inputs.config.router,
       .names = checkpoint::AdapterSource::within(*source.checkpoint(), scale).names(),
       .rank = adapter.rank,
       .alpha = model::adapter_alpha(adapter),
       .rslora = adapter.rslora,
       .base_name = lineage.empty() ? "" : lineage.back().path,
       .type = dtype_of(inputs)},
      [&](const std::string& name, const std::vector<std::int64_t>& offset,
          const std::vector<std::int64_t>& extent, std::span<float> values) {
        comm::check_stop("writing the adapters");
        on_progress();
        source.checkpoint()->read(name, offset, extent, values);
      },
      world);
  return inputs.out;
}

fs::path write_copy(const ConvertInputs& inputs, checkpoint::ModelSource& source,
                    const checkpoint::Calibration& calibration, const comm::Communicator& world,
                    const std::function<void()>& on_progress) {
  return inputs.to_peft     ? write_adapters(inputs, source, world, on_progress)
         : inputs.to_folder ? write_folder(inputs, source, world, on_progress)
                            : write_checkpoint(inputs, source, calibration, world, on_progress);
}

}  // namespace moesaic::cli
