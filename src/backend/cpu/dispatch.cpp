#include <algorithm>
#include <utility>
#include <vector>

#include "backend/cpu/cpu_backend.h"

namespace moesaic::cpu {
namespace {

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

}  // namespace

void CpuBackend::aux_gradient(const Tensor& choice, const Tensor& segment, const Tensor& load,
                              const AuxScale& scale, const Tensor& daux) {
  const std::int64_t experts = daux.dim(1);
  const auto regular = static_cast<double>(scale.regular);
  std::vector<double> wanted(at(daux.numel()), 0.0);  // how strongly each expert is to be left
  if (load.defined()) {
    for (std::int64_t i = 0; i < daux.numel(); ++i) {
      wanted[at(i)] = regular * static_cast<double>(load.as<float>()[at(i % experts)]);
    }
  } else {
    const auto chosen = choice.as<std::int32_t>();
    std::vector<double> all(at(daux.dim(0)), 0.0);
    for (std::int64_t i = 0; i < choice.numel(); ++i) {
      const std::int64_t s =
          segment.defined() ? segment.as<std::int32_t>()[at(i / choice.dim(1))] : 0;
      if (chosen[at(i)] >= 0) {
        wanted[at(s * experts + chosen[at(i)])] += 1.0;
        all[at(s)] += 1.0;
      }
    }
    for (std::int64_t i = 0; i < daux.numel(); ++i) {
      wanted[at(i)] *= wanted[at(i)] > 0.0 ? regular / all[at(i / experts)] : 0.0;
    }
  }
  for (std::int64_t i = 0; i < daux.numel(); ++i) {
    daux.as<float>()[at(i)] = static_cast<float>(scale.aux * wanted[at(i)] / scale.tokens);
  }
}

void CpuBackend::drop_overflow(const Tensor& choice, const Tensor& weight, std::int64_t slots,
                               const Tensor& target, const Tensor& counts) {
  const auto chosen = choice.as<std::int32_t>();
  const auto weights = weight.as<float>();
  const auto targets = target.as<std::int32_t>();
  const std::int64_t experts = counts.dim(1);
  const auto count = counts.as<std::int32_t>();
  std::fill(count.begin(), count.end(), 0);
  std::copy(chosen.begin(), chosen.end(), targets.begin());
  for (const std::int32_t e : chosen) {
    require(e < experts, "choice of an expert that does not exist");
    if (e >= 0) {
      ++count[at(e)];
    }
  }
  for (std::int64_t e = 0; e < experts; ++e) {
    const std::int64_t wanted = count[at(e)];
    const std::int64_t kept = slots > 0 ? std::min(wanted, slots) : wanted;
    count[at(experts + e)] = static_cast<std::int32_t>(wanted - kept);
    count[at(2 * experts + e)] = static_cast<std::int32_t>(kept);
    if (kept == wanted) {
      continue;
    }
    std::vector<std::size_t> places;
    for (std::size_t i = 0; i < chosen.size(); ++i) {
      if (chosen[i] == e) {
        places.push_back(i);
      }
    }
    const auto border = places.begin() + kept;
    std::nth_element(places.begin(), border, places.end(), [&](std::size_t a, std::size_t b) {
      return weights[a] != weights[b] ? weights[a] > weights[b] : a < b;
    });
    std::for_each(border, places.end(), [&](std::size_t i) { targets[i] = -1; });
  }
}

void CpuBackend::lay_rows(const Tensor& target, const Tensor& order, const Tensor& position,
                          const Tensor& source, const Tensor& offsets) {
  const auto targets = target.as<std::int32_t>();
  const auto experts = order.as<std::int32_t>();
  const auto begin = offsets.as<std::int32_t>();
  const auto sources = source.as<std::int32_t>();
  std::int32_t most = -1;
  for (const std::int32_t e : experts) {
    most = std::max(most, e);
  }
  std::vector<std::int32_t> next(at(most + 1), 0);
  for (const std::int32_t e : targets) {
    require(e <= most, "a target outside of the order of experts");
    if (e >= 0) {
      ++next[at(e)];
    }
  }
  std::int32_t rows = 0;
  for (std::size_t i = 0; i < experts.size(); ++i) {
    begin[i] = rows;
    rows += std::exchange(next[at(experts[i])], rows);
  }
  begin[experts.size()] = rows;
  require(rows <= source.numel(), "more rows than there is room for");
  for (std::size_t i = 0; i < targets.size(); ++i) {
    std::int32_t& row = position.as<std::int32_t>()[i];
    row = targets[i] < 0 ? -1 : next[at(targets[i])]++;
    if (row >= 0) {
      sources[at(row)] = static_cast<std::int32_t>(static_cast<std::int64_t>(i) / target.dim(1));
    }
  }
  std::fill(sources.begin() + rows, sources.end(), -1);
}

}  // namespace moesaic::cpu
