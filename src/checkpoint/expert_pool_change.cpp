#include "checkpoint/expert_pool_change.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/text.h"
#include "config/layers.h"

namespace moesaic::checkpoint {
namespace {

using config::PoolAction;
using config::PoolRequest;
using Numbers = std::vector<std::int32_t>;

std::string text_of(const Numbers& numbers) { return numbers.empty() ? "-" : join(numbers, ","); }

// One request on the way through one layer.
class Changer {
 public:
  Changer(const PoolRequest& request, const config::Config& config, std::int64_t layer,
          LayerChange& change)
      : request_(request), config_(config), name_(fmt::format("layer {}", layer)), layer_(change) {}

  void apply() {
    switch (request_.action) {
      case PoolAction::kAdd:
        return grow(LayerChange::kFresh);
      case PoolAction::kClone:
        return request_.count > 0 ? grow(chosen('r', 1, true).front()) : void();
      case PoolAction::kRemove:
        return turn(chosen('r', request_.count, false), 'x');
      case PoolAction::kPromote:
        return turn(chosen('s', request_.count, true), 'r');
    }
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw Error(Exit::kUsage, fmt::format("{}: {}: {}", config::text_of(request_), name_, what));
  }

  void grow(std::int32_t source) {
    layer_.after.append(static_cast<std::size_t>(request_.count), 'r');
    layer_.source.resize(layer_.after.size() - layer_.before.size(), source);
  }

  void turn(const Numbers& numbers, char kind) {
    for (const std::int32_t number : numbers) {
      layer_.after[static_cast<std::size_t>(number)] = kind;
    }
    const std::int64_t regular = routing::count_of(layer_.after, 'r');
    if (regular < config_.model.top_k) {
      fail(fmt::format("{} regular experts would be left, fewer than model.top_k = {}", regular,
                       config_.model.top_k));
    }
    if (const std::int64_t ranks = config::expert_ranks(config_.parallel); regular < ranks) {
      fail(fmt::format("{} regular experts would be left for {} ranks: use a smaller parallel.ep",
                       regular, ranks));
    }
  }

  // The named ones, or so many of a kind by load. New experts have none yet.
  Numbers chosen(char kind, std::int64_t count, bool busiest) const {
    if (!request_.experts.empty()) {
      check_named(kind);
      return request_.experts;
    }
    Numbers candidates;
    for (std::int32_t number = 0; number < layer_.old_numbers(); ++number) {
      if (layer_.after[static_cast<std::size_t>(number)] == kind) {
        candidates.push_back(number);
      }
    }
    if (std::ssize(candidates) < count) {
      fail(fmt::format("there are {} {} experts", candidates.size(),
                       kind == 's' ? "spare" : "regular"));
    }
    const auto load = [&](std::int32_t n) { return layer_.load[static_cast<std::size_t>(n)]; };
    std::stable_sort(candidates.begin(), candidates.end(), [&](std::int32_t a, std::int32_t b) {
      return busiest ? load(a) > load(b) : load(a) < load(b);
    });
    candidates.resize(static_cast<std::size_t>(count));
    return candidates;
  }

  void check_named(char kind) const {
    for (const std::int32_t number : request_.experts) {
      if (number >= layer_.old_numbers()) {
        fail(
            fmt::format("there is no expert {}, the last is {}", number, layer_.old_numbers() - 1));
      }
      const char is = layer_.after[static_cast<std::size_t>(number)];
      if (is != kind) {
        fail(fmt::format("expert {} is {}", number,
                         is == 'x'   ? "retired"
                         : is == 's' ? "a spare"
                                     : "regular already"));
      }
    }
  }

  const PoolRequest& request_;
  const config::Config& config_;
  const std::string name_;
  LayerChange& layer_;
};

}  // namespace

float LayerChange::carried(std::span<const float> values, std::int64_t number) const {
  const std::int32_t from = source[static_cast<std::size_t>(number - old_numbers())];
  if (from != kFresh) {
    return values[static_cast<std::size_t>(from)];
  }
  double sum = 0.0;
  for (std::size_t e = 0; e < before.size(); ++e) {
    sum += before[e] == 'r' ? static_cast<double>(values[e]) : 0.0;
  }
  return static_cast<float>(sum / static_cast<double>(routing::count_of(before, 'r')));
}

std::vector<std::int32_t> LayerChange::turned(char from, char to) const {
  Numbers numbers;
  for (std::size_t e = 0; e < after.size(); ++e) {
    const char was = e < before.size() ? before[e] : '\0';
    if (was == from && after[e] == to) {
      numbers.push_back(static_cast<std::int32_t>(e));
    }
  }
  return numbers;
}

const LayerChange* PoolChange::of(const std::string& tensor) const {
  constexpr std::string_view kPrefix = "model.layers.";
  const std::size_t dot = tensor.find('.', kPrefix.size());
  if (!tensor.starts_with(kPrefix) || tensor.compare(dot, 5, ".mlp.") != 0) {
    return nullptr;
  }
  const std::int64_t layer = std::stoll(tensor.substr(kPrefix.size(), dot - kPrefix.size()));
  const auto found = std::find(numbers.begin(), numbers.end(), layer);
  return found == numbers.end() ? nullptr
                                : &layers.at(static_cast<std::size_t>(found - numbers.begin()));
}

std::string PoolChange::text() const {
  std::vector<std::string> parts;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const LayerChange& layer = layers[i];
    std::vector<std::string> done;
    for (std::size_t n = 0; n < layer.source.size(); ++n) {
      const std::size_t number = layer.before.size() + n;
      done.push_back(layer.source[n] == LayerChange::kFresh
                         ? fmt::format("{} is new", number)
                         : fmt::format("{} copies {}", number, layer.source[n]));
    }
    for (const std::int32_t e : layer.turned('r', 'x')) {
      done.push_back(fmt::format("{} retired", e));
    }
    for (const std::int32_t e : layer.turned('s', 'r')) {
      done.push_back(fmt::format("{} promoted", e));
    }
    parts.push_back(
        fmt::format("layer {}: {}", numbers[i], done.empty() ? "as before" : join(done, ", ")));
  }
  return join(parts, "; ");
}

std::vector<std::vector<std::string>> PoolChange::rows() const {
  std::vector<std::vector<std::string>> rows = {
      {"layer", "added", "from", "removed", "promoted", "regular", "load before"}};
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const LayerChange& layer = layers[i];
    std::vector<std::string> from, load;
    for (const std::int32_t source : layer.source) {
      from.push_back(source == LayerChange::kFresh ? "fresh" : std::to_string(source));
    }
    for (std::size_t e = 0; e < layer.before.size(); ++e) {
      load.push_back(layer.before[e] == 'x' ? "-" : fmt::format("{:.3f}", layer.load[e]));
    }
    rows.push_back({std::to_string(numbers[i]), text_of(layer.turned('\0', 'r')),
                    from.empty() ? "-" : join(from, ","), text_of(layer.turned('r', 'x')),
                    text_of(layer.turned('s', 'r')),
                    std::to_string(routing::count_of(layer.after, 'r')), join(load, " ")});
  }
  return rows;
}

PoolChange change_pools(const config::Config& config, const routing::GateState& gates,
                        const std::vector<config::PoolRequest>& requests,
                        const std::vector<std::vector<float>>& load) {
  const config::Model& model = config.model;
  PoolChange change{.numbers = config::moe_layers(model), .seed = config.train.seed, .layers = {}};
  if (change.numbers.empty()) {
    throw Error(Exit::kUsage, "the model has no layer with experts");
  }
  if (config.router.groups > 1) {
    throw Error(Exit::kUsage,
                fmt::format("router.groups = {} are blocks of expert numbers of one size: with "
                            "groups, experts can neither come nor go",
                            config.router.groups));
  }
  for (std::int64_t layer = 0; layer < std::ssize(change.numbers); ++layer) {
    LayerChange& one = change.layers.emplace_back();
    one.before = one.after = routing::expert_pool_of(model, config.router, gates, layer);
    one.load = load.empty() ? std::vector<float>(one.before.size(), 0.0F)
                            : load[static_cast<std::size_t>(layer)];
    for (const PoolRequest& request : requests) {
      Changer(request, config, change.numbers[static_cast<std::size_t>(layer)], one).apply();
    }
  }
  return change;
}

void adopt(const PoolChange& change, const config::Config& config, routing::GateState& gates) {
  gates.pools.clear();
  gates.loads.clear();
  for (const LayerChange& layer : change.layers) {
    gates.pools.push_back(layer.after);
    if (config.parallel.placement == config::Placing::kLoad) {
      std::vector<float> load = layer.load;
      for (auto e = std::ssize(layer.before); e < std::ssize(layer.after); ++e) {
        load.push_back(layer.carried(layer.load, e));
      }
      gates.loads.push_back(std::move(load));
    }
  }
}

}  // namespace moesaic::checkpoint
