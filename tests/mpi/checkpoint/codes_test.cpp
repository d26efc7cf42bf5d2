// Quantized weights, read by the ranks of tp: each has the very codes of all blocks that its
// columns are in.
#include <gtest/gtest.h>

#include <set>

#include "backend/transfer.h"
#include "base/json.h"
#include "checkpoint/load_weights.h"
#include "checkpoint/quantize.h"
#include "support/shared_dir.h"

namespace moesaic::checkpoint {
namespace {

using Extents = std::vector<std::int64_t>;

config::Config model_on(int ranks, std::optional<DType> quantize) {
  config::Config config;
  config.model.layers = 1;
  config.model.d_model = 32;
  config.model.heads = config.model.kv_heads = 4;
  config.model.head_dim = 8;
  config.model.vocab_size = 37;
  config.model.experts = 3;
  config.model.shared_experts = 1;
  config.model.expert_d_ff = config.model.d_ff = 600;  // in blocks of 256 columns
  config.parallel.tp = ranks;
  config.parallel.expert_tp = ranks;
  config.run.precision = DType::kF32;
  config.run.quantize = quantize;
  config.run.threads = 1;
  return config;
}

Extents extents_of(const Shape& shape) {
  return model::PublicTensor{.name = {}, .shape = shape, .slice = {0, shape[0]}}.extent();
}

// The initial values of the model, quantized, written by the world's root.
void save(const config::Config& config, DType type, const std::filesystem::path& dir,
          const comm::Communicator& world) {
  const auto backend = make_cpu_backend(1);
  auto kinds = stored_kinds(config.model, config.router, {});
  model::Parameters parameters;
  const model::Transformer transformer(parameters, config.model, config.router, model::Placement{});
  std::vector<BlockToSave> blocks;
  for (const model::Parameter& p : parameters.all()) {
    for (const model::PublicTensor& tensor : p.spec.tensors) {
      const Extents extent = extents_of(tensor.shape);
      BlockToSave block{.name = tensor.name,
                        .shape = extent,
                        .offset = Extents(extent.size(), 0),
                        .extent = extent,
                        .values = [&] { return model::initial_values(p.spec, tensor, 5); }};
      if (kinds.at(tensor.name).packable) {
        block.type = type == DType::kInt8 ? DType::kInt8 : DType::kInt4;
        block.rows = [&] {
          return quantize(*backend, type, model::initial_values(p.spec, tensor, 5), tensor.shape[0],
                          tensor.shape[1], {});
        };
      }
      if (world.is_root()) {
        blocks.push_back(block);
      }
    }
  }
  const Json state{{"step", 0}};
  save_checkpoint({dir, 0, state, {}}, blocks, world);
}

// Protects: no part is rounded twice, also where ranks share blocks of columns.
TEST(Codes, PartsOverTp) {
  const comm::Communicator world = comm::Communicator::world();
  for (const DType type : {DType::kInt8, DType::kInt4}) {
    const testing::SharedDir dir;
    const config::Config config =
        model_on(world.size(), type == DType::kInt8 ? DType::kInt8 : DType::kInt4);
    save(config, type, dir.path, world);
    comm::Mesh mesh = engine::make_mesh(config);
    engine::Instance instance(config, mesh, engine::Use::kManyRows);
    auto source = ModelSource::open(dir.path);
    EXPECT_EQ(source.quantized(), type);
    load_parameters(instance, source, Load::kValues);
    std::set<std::string> compared;
    for (const model::Parameter& p : instance.parameters.all()) {
      if (p.packed.groups == 0) {
        continue;
      }
      const Tensor wide =
          instance.backend->empty(DType::kF32, {p.packed.groups, p.packed.rows, p.packed.columns});
      instance.backend->unpack(p.packed, wide);
      const std::vector<float> values = to_host_f32(*instance.backend, wide);
      std::size_t at = 0;
      for (const model::PublicTensor& tensor : p.spec.tensors) {
        std::vector<float> stored(static_cast<std::size_t>(tensor.slice_shape().numel()));
        source.read(tensor.name, tensor.offset(), tensor.extent(), stored);
        const std::vector<float> own(
            values.begin() + static_cast<std::ptrdiff_t>(at),
            values.begin() + static_cast<std::ptrdiff_t>(at + stored.size()));
        at += stored.size();
        EXPECT_EQ(own, stored) << tensor.name;
        compared.insert(tensor.name);
      }
    }
    EXPECT_TRUE(compared.contains("model.layers.0.mlp.experts.2.down_proj.weight"));
    EXPECT_TRUE(compared.contains("model.layers.0.mlp.shared_experts.down_proj.weight"));
    EXPECT_TRUE(compared.contains("model.layers.0.self_attn.o_proj.weight"));
    EXPECT_TRUE(compared.contains("lm_head.weight"));
    mesh.close();
  }
}

}  // namespace
}  // namespace moesaic::checkpoint
