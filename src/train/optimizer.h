#pragma once

#include "config/config.h"
#include "engine/instance.h"
#include "train/gradient_buffer.h"

namespace moesaic::train {

/// L2 norm of the summed gradients that this step applies, over every distinct parameter element
/// once; not finite if any gradient is not. Collective over the mesh; the same bits on every rank.
double gradient_norm(engine::Instance& instance, const GradientBuffer& buffer);

/// One AdamW update of every trained parameter whose gradient is not deferred, with gradients
/// clipped to config.clip (0: not). step counts from 1. Collective where updates are shared out.
void optimizer_step(engine::Instance& instance, const GradientBuffer& buffer,
                    const config::Train& config, double lr, std::int64_t step,
                    double gradient_norm);

}  // namespace moesaic::train
