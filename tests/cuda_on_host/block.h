#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/error.h"
#include "cuda_on_host/fiber.h"
#include "cuda_on_host/vector_types.h"

// CUDA's execution model on the host. Blocks run one after another, in a random order, and the
// threads of a block as fibers, in a new random order whenever they have waited. A fault of a
// kernel ends the launch with an Error that says who waited where.
namespace moesaic::cuda_on_host {

/// 16 bytes on their way into shared memory.
struct Copy {
  void* to;
  const void* from;  // nullptr: zeros
};

struct Thread {
  uint3 index;
  int number = 0, lane = 0, warp = 0;
  Fiber fiber;
  const char* waits_in = nullptr;
  Where where{nullptr, 0};
  std::vector<Copy> copies;             // in the order of their begin
  std::vector<std::size_t> group_ends;  // of the groups that are open: how many copies
};

/// What the threads of a block see. Valid while a kernel runs.
extern Thread* this_thread;
extern uint3 block_index;
extern dim3 block_dim, grid_dim;

/// The kernel ends with this fault.
[[noreturn]] void fail(const std::string& what);
[[noreturn]] void fail(const std::string& what, Where where);

/// The block's shared memory, of which a kernel wants at least so much.
void* shared_memory(std::size_t bytes);
/// Fails unless these bytes lie in the block's shared memory and the address is aligned.
void check_shared(const void* place, std::size_t bytes, std::size_t alignment, Where where);

/// Waits for all threads of the block. Of their predicates: how many hold.
int barrier(const char* name, bool predicate, Where where);

/// What the lanes of a mask do together: the last one to arrive calls join with the operands of
/// all (nullptr: not in the mask).
using Join = void (*)(void* const (&lanes)[32], Where where);
void together(unsigned mask, const char* name, void* operands, Join join, Where where);

/// Runs a kernel: body(argument) once for each thread. Throws Error on a fault.
struct Kernel {
  dim3 grid, block;
  std::size_t shared_bytes = 0;
  Fiber::Body body = nullptr;
  void* argument = nullptr;
  Where where{nullptr, 0};
};
void run(const Kernel& kernel);

/// The orders from here on. (Without it they come from MOESAIC_CUDA_SEED, or 1.)
void set_seed(std::uint64_t seed);
std::uint64_t random_bits();

constexpr std::size_t kMostShared = std::size_t{163} * 1024;  // of a block, as in 8.0

}  // namespace moesaic::cuda_on_host
