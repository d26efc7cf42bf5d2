#pragma once

#include <deque>
#include <map>
#include <vector>

#include "model/parameter/parameter.h"
#include "model/parameter/zero.h"

namespace moesaic::model {

/// Gradients that are summed in one call: neighbours of one sum.
struct Bucket {
  SumOver sum;
  int first_part = 0, last_part = 0;
  Tensor value, grad;                // (n) fp32
  std::vector<std::int64_t> counts;  // elements that each rank of the sum's group owns
};

/// Groups the parameters of each sum into buckets. values, gradients: the blocks that hold them
/// all; owners: who updates what, a sum that is not there: all.
std::vector<Bucket> make_buckets(std::deque<Parameter>& parameters,
                                 const std::map<SumOver, Tensor>& values,
                                 const std::map<SumOver, Tensor>& gradients,
                                 const std::map<SumOver, Owner>& owners);

}  // namespace moesaic::model
