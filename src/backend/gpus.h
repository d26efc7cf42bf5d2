#pragma once

#include <string>

namespace moesaic {

/// A GPU, and what it can compute.
struct Gpu {
  std::string name, uuid;
  int major = 0, minor = 0;  // compute capability
};

/// How many this process sees. Throws kUsage in a build without CUDA, without a driver, or with one
/// that is too old; 0 where all of them are hidden.
int visible_gpus();
/// Allocates nothing. Throws kUsage if the kernels need a newer one.
Gpu gpu_facts(int device);

}  // namespace moesaic
