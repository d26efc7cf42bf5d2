#include <vector>

#include "backend/cpu/cpu_backend.h"

namespace moesaic::cpu {
namespace {

RouteRow row_of(const RouteOptions& options, std::int64_t experts) {
  return {.experts = experts,
          .top_k = options.top_k,
          .candidates = options.candidates,
          .groups = options.groups,
          .top_groups = options.top_groups,
          .group_best = options.group_best,
          .threshold = options.threshold,
          .temperature = options.temperature,
          .sigmoid = options.score == RouterScore::kSigmoid,
          .normalize = options.normalize,
          .scale = options.scale};
}

template <class T>
T* rows_from(const Tensor& tensor, std::int64_t first) {
  return tensor.defined() ? tensor.as<T>().data() + first * (tensor.numel() / tensor.dim(0))
                          : nullptr;
}

RouteRows rows_of(const RouteTensors& t, std::int64_t first) {
  return {.state = t.state.as<std::int32_t>().data(),
          .bias = rows_from<float>(t.bias, 0),
          .added = rows_from<float>(t.added, first),
          .segment = rows_from<std::int32_t>(t.segment, first),
          .logits = rows_from<float>(t.logits, first),
          .scores = rows_from<float>(t.scores, first),
          .selection = rows_from<float>(t.selection, first),
          .choice = rows_from<std::int32_t>(t.choice, first),
          .weight = rows_from<float>(t.weight, first),
          .shares = nullptr,
          .sums = nullptr};
}

}  // namespace

void CpuBackend::route(const RouteOptions& options, const RouteTensors& tensors) {
  const RouteRow row = row_of(options, tensors.logits.dim(1));
  const std::int64_t shares = tensors.shares.numel() / 2;
  const std::int64_t sums = tensors.sums.numel() / 2;
  const std::int64_t width = shares + sums;
  std::vector<double> totals(static_cast<std::size_t>(threads_ * width), 0.0);
  share(tensors.logits.dim(0), [&](std::int64_t begin, std::int64_t end, std::int64_t thread) {
    if (end > begin) {
      RouteRows rows = rows_of(tensors, begin);
      rows.shares = totals.data() + thread * width;
      rows.sums = rows.shares + shares;
      set_.common->route(row, rows, end - begin);
    }
  });
  for (std::int64_t i = 0; i < width; ++i) {
    double total = 0.0;
    for (std::int64_t thread = 0; thread < threads_; ++thread) {
      total += totals[static_cast<std::size_t>(thread * width + i)];
    }
    const bool share = i < shares;
    float* const out = (share ? tensors.shares : tensors.sums).as<float>().data();
    const std::int64_t at = share ? i : i - shares;
    out[at] = static_cast<float>(total);
    out[at + (share ? shares : sums)] = static_cast<float>(total - static_cast<double>(out[at]));
  }
}

void CpuBackend::route_weights(const RouteOptions& options, const Tensor& scores,
                               const Tensor& choice, const Tensor& weight) {
  const std::int64_t experts = scores.dim(1);
  const std::int64_t k = options.top_k;
  const RouteRow row = row_of(options, experts);
  share(scores.dim(0), [&](std::int64_t begin, std::int64_t end, std::int64_t) {
    set_.common->route_weights(row, scores.as<float>().data() + begin * experts,
                               choice.as<std::int32_t>().data() + begin * k,
                               weight.as<float>().data() + begin * k, end - begin);
  });
}

void CpuBackend::route_backward(const RouteOptions& options, const RouteTensors& tensors,
                                const Tensor& choice, const Tensor& dweight, const Tensor& daux,
                                float dz, const Tensor& dlogits) {
  const std::int64_t experts = tensors.logits.dim(1);
  const std::int64_t k = options.top_k;
  const RouteRow row = row_of(options, experts);
  share(tensors.logits.dim(0), [&](std::int64_t begin, std::int64_t end, std::int64_t) {
    if (end > begin) {
      set_.common->route_backward(row, rows_of(tensors, begin),
                                  choice.as<std::int32_t>().data() + begin * k,
                                  dweight.as<float>().data() + begin * k, daux.as<float>().data(),
                                  dz, dlogits.as<float>().data() + begin * experts, end - begin);
    }
  });
}

}  // namespace moesaic::cpu
