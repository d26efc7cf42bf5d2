#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/parameter/parameter.h"

namespace moesaic::model {

/// A rank's number among those that share out the updates of the same parameters.
struct Owner {
  int rank = 0, ranks = 1;
};

/// ZeRO stage 1 (Rajbhandari et al. 2020): shares out the updates of neighbouring parameters. Sets
/// what this rank owns of each, and returns the elements of gradients that each rank owns. Shares
/// are as equal as rows allow: their borders lie between rows, so that a checkpoint can hold them
/// as blocks of their tensors.
std::vector<std::int64_t> share_out(std::span<Parameter* const> members, Owner owner);

}  // namespace moesaic::model
