#include "infer/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "tensor/rng.h"

namespace moesaic::infer {
namespace {

struct Candidate {
  std::int32_t token;
  double weight;  // probability, but for a common factor
};

bool likelier(const Candidate& a, const Candidate& b) {
  return a.weight != b.weight ? a.weight > b.weight : a.token < b.token;
}

double sum(const std::vector<Candidate>& candidates) {
  double total = 0.0;
  for (const Candidate& candidate : candidates) {
    total += candidate.weight;
  }
  return total;
}

void keep_most_probable(std::vector<Candidate>& candidates, std::int64_t count) {
  const auto end = candidates.begin() + std::min(count, std::ssize(candidates));
  std::partial_sort(candidates.begin(), end, candidates.end(), likelier);
  candidates.erase(end, candidates.end());
}

// The first of them, in the order of likelihood, that reach the share p of the whole. Few tokens
// have most of the weight, so that only those are sorted which have some of it.
void keep_share(std::vector<Candidate>& candidates, double p) {
  const double enough = p * sum(candidates);
  auto end = candidates.begin();
  double reached = 0.0;
  const auto is_short = [&] { return end == candidates.begin() || reached < enough; };
  for (double least = 1e-2; end != candidates.end() && is_short(); least *= 1e-2) {
    const auto heavy = std::partition(end, candidates.end(),
                                      [&](const Candidate& c) { return c.weight >= least; });
    reached = std::accumulate(end, heavy, reached,
                              [](double sum, const Candidate& c) { return sum + c.weight; });
    end = least > 0.0 ? heavy : candidates.end();
  }
  std::sort(candidates.begin(), end, likelier);
  reached = 0.0;
  auto kept = candidates.begin();
  while (kept != end && (kept == candidates.begin() || reached < enough)) {
    reached += kept->weight;
    ++kept;
  }
  candidates.erase(kept, candidates.end());
}

}  // namespace

std::int32_t Sampler::draw(float largest, std::span<const float> logits, std::int64_t document,
                           std::int64_t position) const {
  std::vector<Candidate> candidates(logits.size());
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const double below = static_cast<double>(logits[i] - largest) / keys_.temperature;
    candidates[i] = {static_cast<std::int32_t>(i),
                     static_cast<double>(std::exp(static_cast<float>(below)))};
  }
  if (keys_.top_k > 0) {
    keep_most_probable(candidates, keys_.top_k);
  }
  if (keys_.top_p < 1.0) {
    keep_share(candidates, keys_.top_p);
  }
  if (keys_.min_p > 0.0) {  // the argmax weighs 1
    std::erase_if(candidates, [&](const Candidate& c) { return c.weight < keys_.min_p; });
  }
  const Rng rng(static_cast<std::uint64_t>(keys_.seed), static_cast<std::uint64_t>(document));
  double left = rng.uniform(static_cast<std::uint64_t>(position)) * sum(candidates);
  for (const Candidate& candidate : candidates) {
    left -= candidate.weight;
    if (left < 0.0) {
      return candidate.token;
    }
  }
  return candidates.back().token;
}

Sample Sampler::choose(const model::Head::Peak& peak, std::span<const float> logits,
                       std::int64_t document, std::int64_t position) const {
  if (!wants_logits()) {
    return {peak.best, peak.largest - peak.log_sum};
  }
  const std::int32_t chosen = draw(peak.largest, logits, document, position);
  return {chosen, logits[static_cast<std::size_t>(chosen)] - peak.log_sum};
}

}  // namespace moesaic::infer
