#pragma once

#include <cstdint>

#include "config/config.h"

namespace moesaic::train {

/// Learning rate of a step (from 1): linear warm-up over train.warmup steps to train.lr, then until
/// decay_steps down to min_lr along a cosine (Loshchilov & Hutter 2017) or a line, not at all
/// (constant), or along a line in the last fifth only (wsd, Hu et al. 2024).
double learning_rate(const config::Train& config, std::int64_t step);

}  // namespace moesaic::train
