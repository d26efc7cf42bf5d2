#pragma once

#include <cstdint>

#include "config/config.h"
#include "plan/layout.h"

// What the ranks of cp share, and what that takes (data/context_chunks.h).
namespace moesaic::plan {

/// The most rows that a rank of cp has of a micro-batch of so many.
double own_rows(const Layout& layout, double rows);

/// Bytes that attention needs beside its activations where cp > 1: two chunks of keys and values,
/// one that is read and one on its way; and in fp32 forward the sums of softmax of a rank's own
/// rows, or backward the gradients of these and of three chunks, which go, come, and are added.
double context_buffers(const config::Config& config, const Layout& layout, double rows,
                       bool training);

/// Bytes of keys, values and their gradients that a rank of cp sends for one layer and a
/// micro-batch of so many rows, at most; of the rank that sends most. As if the rows were one
/// document without a sliding window: each chunk goes from its owner to every rank that has queries
/// behind it. It goes so in forward (with recompute twice) and in backward, in the type of
/// products; and its gradients go back in backward, in fp32.
double context_traffic(const config::Config& config, const Layout& layout, double rows);

}  // namespace moesaic::plan
