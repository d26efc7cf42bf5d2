#pragma once

#include <vector>

#include "model/context.h"
#include "model/placement.h"

// How the ranks of tp share the T rows of a micro-batch that a rank of cp has (Shoeybi et al. 2019;
// Korthikanti et al. 2022). Inside attention, experts and head each works on all T rows with its
// share of the weights, so that its result is one term of a sum. Outside, the sum is on every rank,
// or, with the sequence split, each rank has the sum of its own rows.
namespace moesaic::model {

/// This rank's share of these rows.
Slice own_rows(const Context& ctx);

/// Collective over tp: from what a rank has outside to all T rows. (t, D) -> (T, D)
Tensor all_rows(Context& ctx, const Tensor& outside);

/// Collective over tp: the sum of all ranks' terms (T, D) fp32, as a rank has it outside. May write
/// to `term`. Also the backward of all_rows, as all_rows is of this.
Tensor sum_rows(Context& ctx, const Tensor& term);

/// Collective over tp, whose ranks route their own rows: (t, W) -> (T, W), any dtype.
Tensor gathered_rows(Context& ctx, const Tensor& own);

}  // namespace moesaic::model
