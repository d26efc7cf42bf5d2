#pragma once

#include <deque>
#include <map>
#include <vector>

#include "base/share.h"
#include "model/parameter/parameter.h"
#include "model/parameter/zero.h"

namespace moesaic::model {

/// Gradients that are summed in one call: neighbours of one sum.
struct Bucket {
  SumOver sum;
  int first_part = 0, last_part = 0;
  std::vector<Parameter*> members;
  Slice values, gradients;           // where it lies in the blocks of its sum
  std::vector<std::int64_t> counts;  // elements that each rank of the sum's group owns
  Tensor value, grad;                // fp32

  /// Whether value and grad have the same places: every row of every member is trained.
  bool is_whole() const;
};

/// Groups what is trained of each sum into buckets, without memory. owners: who updates what, a sum
/// that is not there: all.
std::vector<Bucket> make_buckets(std::deque<Parameter>& parameters,
                                 const std::map<SumOver, Owner>& owners);

}  // namespace moesaic::model
