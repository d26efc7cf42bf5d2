#include "model/expert_errors.h"

#include <algorithm>

#include "backend/transfer.h"

namespace moesaic::model {
namespace {

// Never the tensor itself, which others read.
Tensor fp32_copy(const Device& device, const Tensor& x) {
  Tensor copy = device.empty(DType::kF32, x.shape());
  device.backend.convert(x, copy);
  return copy;
}

}  // namespace

ExpertErrors::ExpertErrors(const Transformer& other, Context other_context, std::int64_t experts)
    : other_(other), context_(std::move(other_context)), experts_(experts) {
  const std::size_t size = other.moe_layers().size() * static_cast<std::size_t>(experts);
  sums_ = {std::vector<double>(size), std::vector<double>(size), std::vector<double>(size)};
}

void ExpertErrors::clear() {
  for (std::vector<double>* const list : {&sums_.rows, &sums_.squares, &sums_.errors}) {
    std::fill(list->begin(), list->end(), 0.0);
  }
}

Observer ExpertErrors::observer() {
  return {.on_expert_output = [this](const ExpertOutputEvent& event) { add(event); }};
}

void ExpertErrors::add(const ExpertOutputEvent& event) {
  const Device& device = event.device;
  const std::vector<std::int64_t> offsets =
      offsets_on_host(event.device.backend, event.offsets, event.x.dim(0));
  const Moe& moe = *other_.moe(event.moe_layer);
  const Tensor whole = fp32_copy(device, event.y);
  const Tensor error =
      fp32_copy(context_, moe.experts().forward(context_, context_.as(context_.compute, event.x),
                                                event.offsets, nullptr));
  if (event.terms) {
    device.tp.all_reduce_sum(whole);
    device.tp.all_reduce_sum(error);
    if (device.tp.group().rank() > 0) {
      return;
    }
  }
  const Tensor minus = fp32_copy(device, whole);
  device.backend.scale(minus, -1.0F);
  device.backend.add(minus, error);
  const std::span<const std::int32_t> expert_ids = moe.expert_ids();
  std::vector<Tensor> parts;  // of each expert, of both
  for (std::size_t g = 0; g < expert_ids.size(); ++g) {
    const std::int64_t rows = offsets[g + 1] - offsets[g];
    parts.push_back(whole.rows(offsets[g], rows));
    parts.push_back(error.rows(offsets[g], rows));
  }
  const Tensor squares = device.empty(DType::kF64, {std::ssize(parts)});
  device.backend.sums_of_squares(parts, squares);
  const std::vector<double> sums = to_host_f64(device.backend, squares);
  for (std::size_t g = 0; g < expert_ids.size(); ++g) {
    const auto at = static_cast<std::size_t>(event.moe_layer * experts_ + expert_ids[g]);
    sums_.rows[at] += static_cast<double>(offsets[g + 1] - offsets[g]);
    sums_.squares[at] += sums[2 * g];
    sums_.errors[at] += sums[2 * g + 1];
  }
}

}  // namespace moesaic::model
