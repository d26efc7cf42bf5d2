#include "train/gradient_buffer.h"

#include "backend/transfer.h"

namespace moesaic::train {
namespace {

using model::Moe;
using model::Parameter;

// The owned ones of the trained rows of one of this rank's experts.
Slice owned_rows_of(const Parameter& p, std::size_t expert, std::int64_t experts) {
  const std::int64_t each = p.all_rows().count / experts;
  return overlap(p.trained_in({static_cast<std::int64_t>(expert) * each, each}), p.owned);
}

Tensor deferred_rows(const Parameter& p, Slice rows) {
  return p.deferred.rows(rows.begin - p.owned.begin, rows.count);
}

}  // namespace

std::vector<GradientBuffer::Expert> GradientBuffer::experts(const Moe& moe, std::int64_t layer,
                                                            model::MoeStats& stats) const {
  const auto all = static_cast<std::size_t>(moe.expert_pool().size());
  const std::vector<float>& state = states_.at(layer);
  std::vector<Expert> list;
  for (const std::int32_t number : moe.expert_ids()) {
    const auto e = static_cast<std::size_t>(number);
    const float tokens = state[all + e] + static_cast<float>(stats.processed(layer)[e]);
    list.push_back({.index = list.size(),
                    .steps = state[e],
                    .updates = state[2 * all + e],
                    .due = tokens >= static_cast<float>(tokens_)});
  }
  return list;
}

void GradientBuffer::for_each_expert(model::MoeStats& stats, const Visit& visit) const {
  for (std::int64_t layer = 0; layer < stats.layers(); ++layer) {
    const Moe* const moe = instance_.transformer.moe(layer);
    if (moe == nullptr) {
      continue;
    }
    for (const Expert& expert : experts(*moe, layer, stats)) {
      for (const Parameter* const p : moe->experts().parameters()) {
        visit(*p, owned_rows_of(*p, expert.index, std::ssize(moe->expert_ids())), expert);
      }
    }
  }
}

// With one wait.
void GradientBuffer::read_states(std::int64_t layers) {
  HostCopies copies;
  std::map<std::int64_t, std::size_t> numbers;
  for (std::int64_t layer = 0; layer < layers; ++layer) {
    if (const Moe* const moe = instance_.transformer.moe(layer)) {
      numbers[layer] = copies.add(moe->buffer_state()->value);
    }
  }
  copies.fetch(*instance_.backend);
  for (const auto& [layer, number] : numbers) {
    const std::span<const float> state = copies.at<float>(number);
    states_[layer].assign(state.begin(), state.end());
  }
}

void GradientBuffer::add_deferred(model::MoeStats& stats) {
  due_.clear();
  if (tokens_ == 0) {
    return;
  }
  read_states(stats.layers());
  for_each_expert(stats, [&](const Parameter& p, Slice rows, const Expert& expert) {
    std::vector<UpdateRows>& due = due_[&p];
    if (rows.count == 0) {
      return;
    }
    const Tensor gradient = p.grad_rows(rows);
    if (expert.steps > 0) {
      instance_.backend->add(deferred_rows(p, rows), gradient);
    }
    if (expert.due) {
      instance_.backend->scale(gradient, 1.0F / (expert.steps + 1.0F));
      due.push_back({rows, static_cast<std::int64_t>(expert.updates) + 1});
    }
  });
}

void GradientBuffer::hold(model::MoeStats& stats) {
  if (tokens_ == 0) {
    return;
  }
  for_each_expert(stats, [&](const Parameter& p, Slice rows, const Expert& expert) {
    if (rows.count == 0) {
      return;
    }
    if (expert.due) {
      instance_.backend->zero(deferred_rows(p, rows));
    } else {
      instance_.backend->convert(p.grad_rows(rows), deferred_rows(p, rows));
    }
  });
  for (std::int64_t layer = 0; layer < stats.layers(); ++layer) {
    if (const Moe* const moe = instance_.transformer.moe(layer)) {
      count(*moe, layer, stats);
    }
  }
}

// Every rank of the stage knows all experts' counts.
void GradientBuffer::count(const Moe& moe, std::int64_t layer, model::MoeStats& stats) {
  const auto all = static_cast<std::size_t>(moe.expert_pool().size());
  const Tensor& tensor = moe.buffer_state()->value;
  std::vector<float> state = states_.at(layer);
  for (std::size_t e = 0; e < all; ++e) {
    state[e] += 1.0F;
    state[all + e] += static_cast<float>(stats.processed(layer)[e]);
    if (state[all + e] >= static_cast<float>(tokens_)) {
      state[e] = state[all + e] = 0.0F;
      state[2 * all + e] += 1.0F;
    }
  }
  instance_.backend->upload(std::as_bytes(std::span(state)), tensor);
}

std::vector<UpdateRows> GradientBuffer::updates(const Parameter& p, std::int64_t step) const {
  const auto found = due_.find(&p);
  return found != due_.end() ? found->second : std::vector<UpdateRows>{{p.owned, step}};
}

}  // namespace moesaic::train
