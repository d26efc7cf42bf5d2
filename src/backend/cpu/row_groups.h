#pragma once

#include "backend/backend.h"
#include "backend/cpu/kernels/kernels.h"

// What kernels on groups of a row's elements are told.
namespace moesaic::cpu {

inline Groups groups_of(const Tensor& x, const RowGroups& groups) {
  return {.row = x.dim(1),
          .first = groups.first,
          .groups = groups.groups,
          .stride = groups.stride,
          .width = groups.width};
}

template <class A>
A* row(const Tensor& x, std::int64_t t) {
  return x.as<A>().data() + t * x.dim(1);
}

}  // namespace moesaic::cpu
