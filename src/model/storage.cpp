#include "model/storage.h"

#include <fmt/format.h>

#include "tensor/rng.h"

namespace moesaic::model {
namespace {

std::vector<std::int64_t> extents(const Shape& shape) {
  std::vector<std::int64_t> list;
  list.reserve(static_cast<std::size_t>(shape.rank()));
  for (int i = 0; i < shape.rank(); ++i) {
    list.push_back(shape[i]);
  }
  return list;
}

// The stored kinds of a parameter's tensors: name prefix and which tensor of the parameter.
struct Kind {
  const char* prefix;
  Tensor Parameter::*member;
};
std::vector<Kind> kinds(const Parameter& p, bool with_moments) {
  std::vector<Kind> list{{"", &Parameter::value}};
  if (with_moments && p.spec.trained) {
    list.push_back({"exp_avg/", &Parameter::exp_avg});
    list.push_back({"exp_avg_sq/", &Parameter::exp_avg_sq});
  }
  return list;
}

// Which of the ranks that hold a tensor writes it: spread by name.
bool writes(const Instance& instance, const Parameter& p, const std::string& name) {
  const comm::Communicator& holders =
      p.spec.sharding == Sharding::kExpert ? instance.mesh.dp : instance.mesh.replicas;
  return hash_name(name) % static_cast<std::uint64_t>(holders.size()) ==
         static_cast<std::uint64_t>(holders.rank());
}

}  // namespace

void load_parameters(Instance& instance, io::CheckpointReader& checkpoint, Load what) {
  for (Parameter& p : instance.parameters.all()) {
    for (const Kind& kind : kinds(p, what == Load::kAll)) {
      std::vector<float> values(static_cast<std::size_t>(p.spec.shape.numel()));
      for (const PublicTensor& tensor : p.spec.tensors) {
        const std::string name = kind.prefix + tensor.name;
        const auto stored = checkpoint.shape(name);
        const std::vector<std::int64_t> wanted = extents(tensor.shape);
        if (!stored || *stored != wanted) {
          throw Error(
              Exit::kMismatch,
              fmt::format(
                  "{}: tensor {} {}; this model needs {}", checkpoint.path().string(), name,
                  stored ? fmt::format("has shape ({})", fmt::join(*stored, ", ")) : "is missing",
                  tensor.shape.text()));
        }
        const std::span<float> part = std::span(values).subspan(
            static_cast<std::size_t>(tensor.begin), static_cast<std::size_t>(tensor.shape.numel()));
        checkpoint.read(name, std::vector<std::int64_t>(wanted.size(), 0), wanted, part);
      }
      instance.backend->upload(std::as_bytes(std::span(values)), p.*kind.member);
    }
  }
  instance.parameters.refresh_copies(*instance.backend);
}

std::vector<io::BlockToSave> blocks_to_save(Instance& instance,
                                            std::vector<std::vector<float>>& host) {
  std::vector<io::BlockToSave> blocks;
  for (Parameter& p : instance.parameters.all()) {
    for (const Kind& kind : kinds(p, true)) {
      for (const PublicTensor& tensor : p.spec.tensors) {
        const std::string name = kind.prefix + tensor.name;
        if (!writes(instance, p, name)) {
          continue;
        }
        const std::int64_t n = tensor.shape.numel();
        const Tensor flat = (p.*kind.member).reshaped({p.spec.shape.numel()});
        host.push_back(to_host_f32(*instance.backend, flat.rows(tensor.begin, n)));
        const std::vector<std::int64_t> shape = extents(tensor.shape);
        blocks.push_back({.name = name,
                          .shape = shape,
                          .offset = std::vector<std::int64_t>(shape.size(), 0),
                          .extent = shape,
                          .values = host.back()});
      }
    }
  }
  return blocks;
}

}  // namespace moesaic::model
