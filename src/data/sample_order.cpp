#include "data/sample_order.h"

#include <algorithm>
#include <bit>
#include <numeric>

#include "base/error.h"
#include "tensor/rng.h"

namespace moesaic::data {

std::int64_t permuted(std::int64_t i, std::int64_t n, std::uint64_t key) {
  require(i >= 0 && i < n, "permutation of an index outside");
  const auto count = static_cast<std::uint64_t>(n);
  const int half_bits = std::max(1, (static_cast<int>(std::bit_width(count - 1)) + 1) / 2);
  const std::uint64_t mask = (std::uint64_t{1} << static_cast<unsigned>(half_bits)) - 1;
  auto value = static_cast<std::uint64_t>(i);
  do {
    std::uint64_t left = value >> static_cast<unsigned>(half_bits);
    std::uint64_t right = value & mask;
    for (std::uint64_t round = 0; round < 6; ++round) {
      const std::uint64_t mixed = left ^ (mix64(key + mix64(right * 8 + round)) & mask);
      left = right;
      right = mixed;
    }
    value = (left << static_cast<unsigned>(half_bits)) | right;
  } while (value >= count);
  return static_cast<std::int64_t>(value);
}

SampleRanges next_samples(std::int64_t cursor, std::int64_t count, const SampleRanges& skipped) {
  SampleRanges drawn;
  const auto draw_before = [&](std::int64_t limit) {
    const std::int64_t taken = std::min(count, limit - cursor);
    if (taken > 0) {
      drawn.push_back({cursor, cursor + taken});
      cursor += taken;
      count -= taken;
    }
  };
  for (const config::SampleRange& skip : skipped) {
    draw_before(skip.first);
    if (count == 0) {
      return drawn;
    }
    cursor = std::max(cursor, skip.end);
  }
  draw_before(cursor + count);
  return drawn;
}

SampleOrder::SampleOrder(std::vector<std::int64_t> samples, const std::vector<double>& weights,
                         std::int64_t seed)
    : samples_(std::move(samples)),
      total_(std::accumulate(samples_.begin(), samples_.end(), std::int64_t{0})),
      seed_(mix64(static_cast<std::uint64_t>(seed))),
      seen_(samples_.size(), 0) {
  require(total_ > 0, "no samples to order");
  require(weights.empty() || weights.size() == samples_.size(), "one weight for each group");
  double sum = 0.0;
  for (std::size_t c = 0; c < weights.size(); ++c) {
    sum += samples_[c] > 0 ? weights[c] : 0.0;
    cumulative_.push_back(sum);
  }
}

std::size_t SampleOrder::draw(std::int64_t n) const {
  const Rng rng(seed_, hash_name("corpus"));
  const double u = rng.uniform(static_cast<std::uint64_t>(n)) * cumulative_.back();
  const auto found = std::upper_bound(cumulative_.begin(), cumulative_.end(), u);
  return static_cast<std::size_t>(std::min(found, cumulative_.end() - 1) - cumulative_.begin());
}

SampleDraw SampleOrder::at(std::int64_t n) {
  const auto key = [&](std::size_t stream, std::int64_t epoch) {
    return mix64(seed_ ^ mix64(stream) ^ mix64(static_cast<std::uint64_t>(epoch) << 16U));
  };
  if (cumulative_.empty()) {
    std::int64_t index = permuted(n % total_, total_, key(0, n / total_));
    std::size_t group = 0;
    while (index >= samples_[group]) {
      index -= samples_[group++];
    }
    return {group, index};
  }
  if (n < next_) {
    std::fill(seen_.begin(), seen_.end(), 0);
    next_ = 0;
  }
  for (; next_ < n; ++next_) {
    ++seen_[draw(next_)];
  }
  const std::size_t group = draw(n);
  const std::int64_t of_group = seen_[group];
  const std::int64_t count = samples_[group];
  return {group, permuted(of_group % count, count, key(group + 1, of_group / count))};
}

}  // namespace moesaic::data
