#pragma once

#include "comm/communicator.h"
#include "config/config.h"
#include "model/parameters.h"

namespace moesaic::train {

/// L2 norm of the reduced gradients over every distinct parameter element once. Collective over ep;
/// the same bits on every rank.
double gradient_norm(Backend& backend, const model::Parameters& parameters,
                     const comm::Communicator& ep);

/// One AdamW update of every trained parameter with gradients clipped to config.clip (0: not).
/// step counts from 1.
void optimizer_step(Backend& backend, model::Parameters& parameters, const config::Train& config,
                    double lr, std::int64_t step, double gradient_norm);

}  // namespace moesaic::train
