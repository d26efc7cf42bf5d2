#include "support/golden.h"

#include <gtest/gtest.h>

#include <cmath>

#include "backend/transfer.h"
#include "files/hdf5/file.h"
#include "files/hdf5/thread.h"

namespace moesaic::testing {
namespace {

config::Config read_config(const files::Hdf5File& file) {
  const auto integer = [&](const char* name) { return file.int_attribute("/", name); };
  config::Config c;
  c.model.layers = integer("model.layers");
  c.model.d_model = integer("model.d_model");
  c.model.heads = integer("model.heads");
  c.model.kv_heads = integer("model.kv_heads");
  c.model.head_dim = integer("model.head_dim");
  c.model.d_ff = integer("model.d_ff");
  c.model.vocab_size = integer("model.vocab_size");
  c.model.rope_theta = file.double_attribute("/", "model.rope_theta");
  c.model.norm_eps = file.double_attribute("/", "model.norm_eps");
  c.model.tie_embeddings = integer("model.tie_embeddings") != 0;
  c.model.dense_layers = integer("model.dense_layers");
  c.model.experts = integer("model.experts");
  c.model.shared_experts = integer("model.shared_experts");
  c.model.top_k = integer("model.top_k");
  c.model.expert_d_ff = integer("model.expert_d_ff");
  c.router.score = file.string_attribute("/", "router.score") == "sigmoid"
                       ? config::Score::kSigmoid
                       : config::Score::kSoftmax;
  c.router.normalize = integer("router.normalize") != 0;
  c.router.scale = file.double_attribute("/", "router.scale");
  c.router.aux_loss = file.double_attribute("/", "router.aux_loss");
  c.router.z_loss = file.double_attribute("/", "router.z_loss");
  c.router.balance = file.string_attribute("/", "router.balance") == "bias"
                         ? config::Balance::kBias
                         : config::Balance::kAuxLoss;
  c.router.capacity = integer("router.capacity");
  c.run.precision = DType::kF32;
  c.run.threads = 1;
  c.train.lr = file.double_attribute("/adamw", "lr");
  c.train.beta1 = file.double_attribute("/adamw", "beta1");
  c.train.beta2 = file.double_attribute("/adamw", "beta2");
  c.train.eps = file.double_attribute("/adamw", "eps");
  c.train.weight_decay = file.double_attribute("/adamw", "weight_decay");
  c.train.clip = file.double_attribute("/adamw", "clip");
  return c;
}

std::map<std::string, std::vector<float>> read_group(const files::Hdf5File& file,
                                                     const std::string& group) {
  std::map<std::string, std::vector<float>> all;
  for (const std::string& name : file.members(group)) {
    all[name] = file.read_all<float>(group + "/" + name);
  }
  return all;
}

std::vector<data::MicroBatch> read_rows(const files::Hdf5File& file) {
  const files::Extents extents = file.extents("/input_ids");
  const auto ids = file.read_all<std::int32_t>("/input_ids");
  const auto targets = file.read_all<std::int32_t>("/targets");
  const auto begin = file.read_all<std::int64_t>("/document_begin");
  std::vector<data::MicroBatch> rows;
  std::size_t i = 0;
  for (std::int64_t b = 0; b < extents[0]; ++b) {
    data::MicroBatch row;
    for (std::int64_t t = 0; t < extents[1]; ++t, ++i) {
      row.token.push_back(ids[i]);
      row.target.push_back(targets[i]);
      row.position.push_back(static_cast<std::int32_t>(t - begin[i]));
      row.first_key.push_back(static_cast<std::int32_t>(begin[i]));
      row.task.push_back(0);
    }
    rows.push_back(row);
  }
  return rows;
}

std::vector<double> doubles(const std::vector<float>& values) {
  return {values.begin(), values.end()};
}

}  // namespace

Golden Golden::read(const std::string& name) {
  return files::hdf5_run([&] {
    const files::Hdf5File file =
        files::Hdf5File::open(std::string(MOESAIC_GOLDEN_DIR "/") + name + ".h5");
    Golden g;
    g.config = read_config(file);
    g.rows = read_rows(file);
    g.parameters = read_group(file, "/parameters");
    g.gradients = read_group(file, "/grad");
    g.logits = file.read_all<float>("/logits");
    g.adamw_losses = file.read_all<float>("/adamw/losses");
    g.adamw_norms = file.read_all<float>("/adamw/grad_norms");
    g.aux_loss = doubles(file.read_all<float>("/aux_loss"));
    g.z_loss = doubles(file.read_all<float>("/z_loss"));
    g.expert_tokens = file.read_all<double>("/expert_tokens");
    g.loss = file.read_all<double>("/loss").front();
    g.lm_loss = file.read_all<double>("/lm_loss").front();
    return g;
  });
}

data::MicroBatch joined(const std::vector<data::MicroBatch>& parts) {
  data::MicroBatch all;
  for (const data::MicroBatch& part : parts) {
    const auto base = static_cast<std::int32_t>(all.size());
    all.token.insert(all.token.end(), part.token.begin(), part.token.end());
    all.target.insert(all.target.end(), part.target.begin(), part.target.end());
    all.position.insert(all.position.end(), part.position.begin(), part.position.end());
    all.task.insert(all.task.end(), part.task.begin(), part.task.end());
    for (const std::int32_t key : part.first_key) {
      all.first_key.push_back(base + key);
    }
  }
  return all;
}

data::MicroBatch Golden::batch() const { return joined(rows); }

std::vector<float> part_of(const std::vector<float>& whole, const model::PublicTensor& tensor) {
  std::vector<float> part(static_cast<std::size_t>(tensor.slice_shape().numel()));
  for (std::size_t i = 0; i < part.size(); ++i) {
    part[i] = whole[static_cast<std::size_t>(tensor.whole_index(static_cast<std::int64_t>(i)))];
  }
  return part;
}

void set_parameters(engine::Instance& instance, const Golden& golden) {
  for (model::Parameter& p : instance.parameters.all()) {
    const Tensor flat = p.value.reshaped({p.spec.shape.numel()});
    for (const model::PublicTensor& tensor : p.spec.tensors) {
      if (tensor.may_be_missing && !golden.parameters.contains(tensor.name)) {
        continue;
      }
      const std::vector<float> values = part_of(golden.parameters.at(tensor.name), tensor);
      instance.backend->upload(std::as_bytes(std::span(values)),
                               flat.rows(tensor.begin, std::ssize(values)));
    }
  }
  instance.parameters.refresh_copies(*instance.backend);
}

std::map<std::string, std::vector<float>> gradients_of(engine::Instance& instance) {
  std::map<std::string, std::vector<float>> all;
  for (model::Parameter& p : instance.parameters.all()) {
    for (const model::PublicTensor& tensor : p.spec.tensors) {
      const Slice rows = p.trained_rows_with(tensor);
      if (rows.count > 0) {
        all[tensor.name] = to_host_f32(*instance.backend, p.grad_rows(rows));
      }
    }
  }
  return all;
}

double relative_distance(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double distance = 0.0;
  double norm = 0.0;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    const double difference = static_cast<double>(a[i]) - static_cast<double>(b[i]);
    distance += difference * difference;
    norm += static_cast<double>(b[i]) * static_cast<double>(b[i]);
  }
  return std::sqrt(distance) / (std::sqrt(norm) + 1e-30);
}

}  // namespace moesaic::testing
