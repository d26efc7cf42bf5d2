#include "checkpoint/calibration.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "base/text.h"

namespace moesaic::checkpoint {
namespace {

// Statistics of a public tensor: the sum of squares of each column of its input, then, as the last
// entry, the number of rows seen.
using Sums = std::vector<double>;

// Which of its numbers this rank adds to the sum over all, so that each counts once. The ranks of
// tp see the same rows where they share out rows of w, other columns where they share out columns,
// and other rows where whole experts are shared out.
struct Share {
  bool squares = false, rows = false;

  Share(const model::Placement& placement, const model::Parameter& p,
        const model::PublicTensor& tensor) {
    const bool columns = tensor.dim == 1 && tensor.slice.count < tensor.shape[1];
    const bool experts = placement.folded && p.spec.sum == model::SumOver::kExpertReplicas;
    squares = columns || experts || placement.tp_rank == 0;
    rows = columns ? tensor.slice.begin == 0 && tensor.slice.count > 0 : squares;
  }
};

// This rank's term for one tensor of a parameter.
Sums term_of(const model::Parameter& p, const model::PublicTensor& tensor, const Share& share,
             const model::ActivationStatistics::Sums& seen) {
  Sums sums(static_cast<std::size_t>(tensor.shape[1]) + 1, 0.0);
  const bool grouped = p.spec.shape.rank() == 3;
  const std::int64_t group = grouped ? p.rows_with(tensor).begin / p.spec.shape[1] : 0;
  const std::int64_t first = tensor.dim == 1 ? tensor.slice.begin : 0;
  const std::int64_t columns = p.columns();
  if (share.squares) {
    std::copy_n(seen.squares.begin() + group * columns, columns, sums.begin() + first);
  }
  if (share.rows) {
    sums.back() = static_cast<double>(seen.rows[static_cast<std::size_t>(group)]);
  }
  return sums;
}

struct Term {
  const model::Parameter* parameter;
  const model::PublicTensor* tensor;
};

// "model.layers.2.mlp.experts.5.up_proj.weight"
struct ExpertTensor {
  std::string layer, field;
  std::int64_t number;
};
std::optional<ExpertTensor> expert_of(const std::string& name) {
  constexpr std::string_view kExperts = ".mlp.experts.";
  const std::size_t at = name.find(kExperts);
  if (at == std::string::npos) {
    return std::nullopt;
  }
  const std::size_t number = at + kExperts.size();
  const std::size_t field = name.find('.', number);
  return ExpertTensor{name.substr(0, at), name.substr(field),
                      std::stoll(name.substr(number, field - number))};
}

bool reads_the_layers_input(const ExpertTensor& expert) {
  return expert.field != ".down_proj.weight";
}

std::vector<float> means(const Sums& sums) {
  std::vector<float> columns;
  for (std::size_t k = 0; k + 1 < sums.size(); ++k) {
    columns.push_back(static_cast<float>(sums[k] / sums.back()));
  }
  return columns;
}

using Counts = std::map<std::int64_t, double>;  // expert -> tokens

std::string warning(const std::string& layer, const Counts& few) {
  std::vector<std::string> experts;
  for (const auto& [number, tokens] : few) {
    experts.push_back(fmt::format("{} ({:.0f})", number, tokens));
  }
  return fmt::format(
      "{}: {} of its experts met fewer than {} tokens of convert.calibration, and are rounded as "
      "all tokens of the layer suggest: {}",
      layer, experts.size(), kCalibrationRows, join(experts, ", "));
}

}  // namespace

Calibration join_sums(const engine::Instance& instance, const model::ActivationStatistics& seen,
                      const std::vector<std::string>& names) {
  std::map<std::string, Term> terms;
  for (const model::Parameter& p : instance.parameters.all()) {
    for (const model::PublicTensor& tensor : p.spec.tensors) {
      terms[tensor.name] = {&p, &tensor};
    }
  }
  Calibration result;
  std::map<std::string, Sums> layers;  // layer and field -> of all its experts
  std::map<std::string, Counts> few;   // layer -> its experts with few tokens
  std::vector<std::string> undecided;  // tensors of such experts
  for (const std::string& name : names) {
    Sums sums;
    const auto term = terms.find(name);
    const model::ActivationStatistics::Sums* const own =
        term == terms.end() ? nullptr : seen.of(*term->second.parameter);
    if (own != nullptr) {
      const auto& [p, tensor] = term->second;
      sums = term_of(*p, *tensor, Share(instance.placement, *p, *tensor), *own);
    }
    const comm::Communicator& world = instance.mesh.world;
    const std::int64_t size = world.all_reduce(std::ssize(sums), comm::Reduce::kMax);
    sums.resize(static_cast<std::size_t>(size), 0.0);
    world.all_reduce(std::span(sums), comm::Reduce::kSum);
    const auto expert = expert_of(name);
    const bool enough =
        !sums.empty() && sums.back() >= (expert ? static_cast<double>(kCalibrationRows) : 1.0);
    if (expert && !sums.empty()) {
      Sums& all = layers[expert->layer + expert->field];
      all.resize(sums.size(), 0.0);
      std::transform(sums.begin(), sums.end(), all.begin(), all.begin(), std::plus<>());
    }
    if (expert && !enough && !reads_the_layers_input(*expert)) {  // one line for each expert
      few[expert->layer][expert->number] = sums.empty() ? 0.0 : sums.back();
    }
    if (enough) {
      result.mean_squares[name] = means(sums);
    } else if (expert && reads_the_layers_input(*expert)) {
      undecided.push_back(name);
    }
  }
  for (const std::string& name : undecided) {
    const auto expert = expert_of(name);
    const auto all = layers.find(expert->layer + expert->field);
    if (all != layers.end() && all->second.back() > 0.0) {
      result.mean_squares[name] = means(all->second);
    }
  }
  for (const auto& [layer, experts] : few) {
    result.warnings.push_back(warning(layer, experts));
  }
  return result;
}

}  // namespace moesaic::checkpoint
