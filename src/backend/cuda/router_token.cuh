#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>

#include "backend/cuda/router_row.cuh"

namespace moesaic::cuda {

constexpr int kNobody = 0x7fffffff;

// A group, as the choice among groups sees it.
struct GroupRank {
  float worth;
  int kept;
};

// One token in the hands of a warp.
template <int N>
struct Token {
  using Lanes = ExpertLanes<N>;
  template <class T>
  using Row = typename Lanes::template Row<T>;

  RouteRow row;
  Lanes lanes;
  RouteRows at;  // where the token's rows lie
  typename Lanes::Roles roles;
  Row<float> logits, scores, selection;

  __device__ __forceinline__ Token(const RouteRow& options, const RouteRows& rows,
                                   std::int64_t token)
      : row(options), lanes{options.experts}, at(rows), roles(lanes.roles(rows.state)) {
    const std::int64_t first = token * row.experts;
    at.added = rows.added != nullptr ? rows.added + first : nullptr;
    at.logits += first;
    at.scores += first;
    at.selection += first;
    at.choice += token * row.top_k;
    at.weight += token * row.top_k;
    logits = lanes.read(at.logits);
    scores = lanes.begin(at.scores);
    selection = lanes.begin(at.selection);
  }

  // Takes the largest of x out (the lowest index of equals): -1 if nothing is left, or not
  // comparable.
  __device__ __forceinline__ int take_best(Row<float>& x) const {
    float best = -INFINITY;
    int who = kNobody;
    lanes.each([&](int i, int e) {
      who = x[i] > best ? e : who;
      best = x[i] > best ? x[i] : best;
    });
#pragma unroll
    for (int distance = kWarp / 2; distance > 0; distance /= 2) {
      const float other = __shfl_xor_sync(kAllLanes, best, distance);
      const int other_who = __shfl_xor_sync(kAllLanes, who, distance);
      const bool better = other > best || (other == best && other_who < who);
      who = better ? other_who : who;
      best = better ? other : best;
    }
    lanes.each([&](int i, int e) { x[i] = e == who ? -INFINITY : x[i]; });
    return who == kNobody ? -1 : who;
  }

  // For a token whose numbers are not finite: any expert will do, but it must be one.
  __device__ __forceinline__ int first_free(int taken) const {
    __syncwarp();  // lanes wrote their choices
    int who = kNobody;
    lanes.each([&](int i, int e) {
      bool free = roles.regular(i) && who == kNobody;
      for (int c = 0; c < taken && free; ++c) {
        free = at.choice[c] != e;
      }
      who = free ? e : who;
    });
    who = warp_join(who, [](int a, int b) { return a < b ? a : b; });
    return who == kNobody ? -1 : who;
  }

  // Leaves only the candidates of the largest logits over.
  __device__ __forceinline__ void keep_candidates() {
    lanes.each([&](int i, int /*e*/) { selection[i] = roles.regular(i) ? logits[i] : -INFINITY; });
    for (int c = 0; c < row.candidates; ++c) {
      take_best(selection);
    }
    lanes.each(
        [&](int i, int /*e*/) { logits[i] = selection[i] > -INFINITY ? -INFINITY : logits[i]; });
  }

  __device__ __forceinline__ void finish_logits() {
    lanes.each([&](int i, int e) {
      const bool possible = roles.regular(i) || roles.spare(i);
      const float raw = possible ? logits[i] : -INFINITY;
      logits[i] = (raw + (at.added != nullptr ? at.added[e] : 0.0F)) * row.inverse_temperature;
    });
  }

  // Scores, and how willingly the token goes to each regular expert.
  __device__ __forceinline__ void score(float lse) {
    lanes.each([&](int i, int e) {
      const float l = logits[i];
      const bool regular = roles.regular(i);
      const bool exists = regular || roles.spare(i);
      const bool possible = exists && !(l == -INFINITY);
      const float value = row.sigmoid ? sigmoid(l) : (regular ? expf(l - lse) : sigmoid(l - lse));
      scores[i] = possible ? value : 0.0F;
      selection[i] = possible && regular ? value + at.bias[e] : -INFINITY;
    });
  }

  // The sum of a group's two best or its best, which is what the groups are ranked by.
  __device__ __forceinline__ float worth(const float* x, int n) const {
    float first = -INFINITY;
    float second = -INFINITY;
    for (int e = 0; e < n; ++e) {
      second = x[e] > first ? first : (x[e] > second ? x[e] : second);
      first = x[e] > first ? x[e] : first;
    }
    return n == 1 || row.group_best == 1 ? first : first + second;
  }

  // Leaves only the experts of the top groups over. There are few groups: each is ranked by how
  // many are better.
  __device__ __forceinline__ void keep_top_groups(GroupRank* groups) {
    const int size = row.experts / row.groups;
    lanes.write(selection, at.selection);
    __syncwarp();
    for (int g = lane_index(); g < row.groups; g += kWarp) {
      groups[g].worth = worth(at.selection + g * size, size);
    }
    __syncwarp();
    for (int g = lane_index(); g < row.groups; g += kWarp) {
      const float own = groups[g].worth;
      int better = 0;
      for (int other = 0; other < row.groups; ++other) {
        const float value = groups[other].worth;
        better += value > own || (value == own && other < g) ? 1 : 0;
      }
      groups[g].kept = better < row.top_groups ? 1 : 0;
    }
    __syncwarp();
    lanes.each([&](int i, int e) {
      const bool kept = e >= size * row.groups || groups[e / size].kept != 0;
      selection[i] = kept ? selection[i] : -INFINITY;
    });
    __syncwarp();  // the next token may use the ranks again
  }

  // The score of an expert, for every lane.
  __device__ __forceinline__ float score_of(int expert) const {
    float own = 0.0F;
    lanes.each([&](int i, int e) { own = e == expert ? scores[i] : own; });
    return __shfl_sync(kAllLanes, own, expert % kWarp);
  }

  // The choice and its weights; `selection` keeps what was not taken. Place c is written by lane
  // c % 32.
  __device__ __forceinline__ void choose(float total) {
    float reached = 0.0F;
    for (int c = 0; c < row.top_k; ++c) {
      const bool enough = c > 0 && row.threshold > 0.0F && reached >= row.threshold * total;
      int e = enough ? -1 : take_best(selection);
      e = e < 0 && !enough ? first_free(c) : e;
      const float own = e >= 0 ? score_of(e) : 0.0F;
      reached += own;
      if (lane_index() == c % kWarp) {
        at.choice[c] = e;
        at.weight[c] = own;
      }
    }
    const float factor = weight_factor(row, reached);
    for (int c = lane_index(); c < row.top_k; c += kWarp) {
      at.weight[c] = at.choice[c] >= 0 ? at.weight[c] * factor : 0.0F;
    }
  }

  // This lane's part of the entropy of the shares, nats.
  __device__ __forceinline__ double entropy(float inverse) const {
    double sum = 0.0;
    lanes.each([&](int i, int /*e*/) {
      const float p = roles.regular(i) ? scores[i] * inverse : 0.0F;
      sum -= p > 0.0F ? static_cast<double>(p) * static_cast<double>(logf(p)) : 0.0;
    });
    return sum;
  }

  // A spare is where it would rather go among spares.
  __device__ __forceinline__ void write() {
    lanes.each([&](int i, int /*e*/) { selection[i] = roles.spare(i) ? logits[i] : selection[i]; });
    lanes.write(logits, at.logits);
    lanes.write(scores, at.scores);
    lanes.write(selection, at.selection);
  }
};

}  // namespace moesaic::cuda
