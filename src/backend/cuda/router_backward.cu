// Backward of the router, and the weights of a choice that is given. From the gradient of weights
// and shares to that of the scores, and through these to the logits of the gate.
#include <cmath>

#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/device/launch.cuh"
#include "backend/cuda/grid.h"
#include "backend/cuda/router_row.cuh"

namespace moesaic::cuda {
namespace {

constexpr int kBlock = 128;
constexpr int kWarps = kBlock / kWarp;

// A thread a token: sums in the order of choice, as route() has them.
__global__ void __launch_bounds__(kBlock)
    weigh(RouteRow row, const float* scores, const std::int32_t* choice, float* weight,
          std::int64_t tokens) {
  const std::int64_t t = static_cast<std::int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (t >= tokens) {
    return;
  }
  const float* const own = scores + t * row.experts;
  const std::int32_t* const chosen = choice + t * row.top_k;
  const float factor = weight_factor(row, chosen_sum(row, own, chosen));
  for (int c = 0; c < row.top_k; ++c) {
    weight[t * row.top_k + c] = chosen[c] >= 0 ? own[chosen[c]] * factor : 0.0F;
  }
}

// What comes from outside, of one token.
struct Incoming {
  const std::int32_t* choice;
  const float* dweight;
  const float* daux;
  const float* scores;
};

// Adds the gradient of the weights to that of the scores.
template <class Lanes, class Floats>
__device__ __forceinline__ void add_dweight(const RouteRow& row, const Lanes& lanes,
                                            const Incoming& in, Floats& d) {
  const float factor = weight_factor(row, chosen_sum(row, in.scores, in.choice));
  float inner = 0.0F;
  for (int c = 0; c < row.top_k && row.normalize; ++c) {
    const int e = in.choice[c];
    inner += e >= 0 ? in.dweight[c] * in.scores[e] : 0.0F;
  }
  const float shift = inner * factor / row.scale;
  for (int c = 0; c < row.top_k; ++c) {
    const int chosen = in.choice[c];
    const float more = (in.dweight[c] - shift) * factor;
    lanes.each([&](int i, int e) { d[i] = e == chosen ? d[i] + more : d[i]; });
  }
}

template <int N>
__global__ void __launch_bounds__(kBlock, blocks_with(N))
    route_backward_tokens(RouteRow row, RouteRows rows, Incoming all, float dz, float* dlogits,
                          std::int64_t tokens) {
  const std::int64_t t = static_cast<std::int64_t>(blockIdx.x) * kWarps + warp_index();
  if (t >= tokens) {
    return;
  }
  const std::int64_t first = t * row.experts;
  const std::int64_t segment = rows.segment != nullptr ? rows.segment[t] : 0;
  const Incoming in{all.choice + t * row.top_k, all.dweight + t * row.top_k,
                    all.daux + segment * row.experts, rows.scores + first};
  const ExpertLanes<N> lanes{row.experts};
  const auto roles = lanes.roles(rows.state);
  const auto scores = lanes.read(rows.scores + first);
  const auto logits = lanes.read(rows.logits + first);
  auto d = lanes.begin(dlogits + first);  // the gradient of the scores first

  const float inverse = 1.0F / (regular_sum(lanes, roles, scores) + kTinyScore);
  float mean = 0.0F;
  lanes.each(
      [&](int i, int e) { mean += roles.regular(i) ? in.daux[e] * scores[i] * inverse : 0.0F; });
  mean = warp_sum(mean);
  lanes.each([&](int i, int e) { d[i] = roles.regular(i) ? (in.daux[e] - mean) * inverse : 0.0F; });
  add_dweight(row, lanes, in, d);

  const float lse = log_sum_exp(lanes, roles, logits);
  float inner = 0.0F;
  float spare = 0.0F;
  lanes.each([&](int i, int /*e*/) {
    const float part = row.sigmoid ? 0.0F : d[i] * scores[i];
    inner += roles.regular(i) ? part : 0.0F;
    spare += roles.spare(i) ? part * (1.0F - scores[i]) : 0.0F;
  });
  inner = warp_sum(inner);
  const float dlse = dz * 2.0F * lse - warp_sum(spare);
  lanes.each([&](int i, int /*e*/) {
    const float own = d[i] * scores[i] * (1.0F - scores[i]);
    const float of_score = row.sigmoid ? own : scores[i] * (d[i] - inner);
    const float of_regular = of_score + dlse * expf(logits[i] - lse);
    d[i] = (roles.regular(i) ? of_regular : own) * row.inverse_temperature;
  });
  lanes.write(d, dlogits + first);
}

}  // namespace

void CudaBackend::route_weights(const RouteOptions& options, const Tensor& scores,
                                const Tensor& choice, const Tensor& weight) {
  const std::int64_t tokens = scores.dim(0);
  launch(stream(), weigh, grid_of(ceil_div(tokens, kBlock)), kBlock, 0,
         row_of(options, scores.dim(1)), device<float>(scores), device<std::int32_t>(choice),
         device<float>(weight), tokens);
}

void CudaBackend::route_backward(const RouteOptions& options, const RouteTensors& tensors,
                                 const Tensor& choice, const Tensor& dweight, const Tensor& daux,
                                 float dz, const Tensor& dlogits) {
  const std::int64_t tokens = tensors.logits.dim(0);
  const std::int64_t experts = tensors.logits.dim(1);
  const Incoming incoming{device<std::int32_t>(choice), device<float>(dweight), device<float>(daux),
                          nullptr};
  with_lanes_of(experts, [&](auto n) {
    launch(stream(), route_backward_tokens<decltype(n)::value>, grid_of(ceil_div(tokens, kWarps)),
           kBlock, 0, row_of(options, experts), rows_of(tensors), incoming, dz,
           device<float>(dlogits), tokens);
  });
}

}  // namespace moesaic::cuda
