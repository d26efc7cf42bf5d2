#include "cuda_on_host/block.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <string_view>
#include <utility>

#include "cuda_on_host/race.h"
#include "cuda_on_host/sanitizers.h"

namespace moesaic::cuda_on_host {

Thread* this_thread = nullptr;
uint3 block_index;
dim3 block_dim, grid_dim;

namespace {

constexpr int kLanes = 32;
constexpr std::size_t kBehind = 1024;  // bytes behind shared memory that must stay as they are
constexpr int kPoison = 0xff;

std::uint64_t seed_from_environment() {
  const char* const text = std::getenv("MOESAIC_CUDA_SEED");
  return text == nullptr ? 1 : std::strtoull(text, nullptr, 10);
}
std::uint64_t state = seed_from_environment() * 2 + 1;

// Lanes that wait for the others of their mask.
struct Gathering {
  unsigned mask = 0, here = 0;
  const char* name = nullptr;
  Where where{nullptr, 0};
  std::array<void*, kLanes> operands{};
  std::array<Thread*, kLanes> threads{};
};

struct Block {
  std::vector<std::unique_ptr<Thread>> threads;  // more than a block may need: they are kept
  int size = 0, live = 0;
  std::vector<Thread*> ready, round;
  std::vector<std::vector<std::unique_ptr<Gathering>>> gatherings;  // of each warp
  int arrived = 0, holding = 0, held = 0;                           // at the barrier
  Where barrier{nullptr, 0};
  const char* barrier_name = nullptr;
  std::array<char, 2> race{};  // places that order its threads for ThreadSanitizer
  std::string fault;
  std::byte* shared = nullptr;
  const Kernel* kernel = nullptr;
};
Block the_block;
std::mutex one_kernel;

std::string text_of(Where where) {
  const std::string_view path = where.file;
  return fmt::format("{}:{}", path.substr(path.find_last_of('/') + 1), where.line);
}

bool same(Where a, Where b) {
  return a.line == b.line && (a.file == b.file || std::string_view(a.file) == b.file);
}

std::string text_of(const uint3& index) {
  return fmt::format("({}, {}, {})", index.x, index.y, index.z);
}

void wait(const char* name, Where where) {
  Thread& me = *this_thread;
  me.waits_in = name;
  me.where = where;
  me.fiber.suspend();
  this_thread = &me;
  me.waits_in = nullptr;
}

void wake(Thread* thread) { the_block.ready.push_back(thread); }

std::string who_waits() {
  std::map<std::string, int> places;
  int returned = 0;
  for (int i = 0; i < the_block.size; ++i) {
    const Thread& thread = *the_block.threads[static_cast<std::size_t>(i)];
    if (thread.waits_in != nullptr) {
      ++places[fmt::format("{} ({})", thread.waits_in, text_of(thread.where))];
    } else {
      ++returned;
    }
  }
  std::string text = fmt::format("{} threads have returned", returned);
  for (const auto& [place, count] : places) {
    text += fmt::format(", {} wait in {}", count, place);
  }
  return text;
}

void shuffle(std::vector<Thread*>& threads) {
  for (std::size_t i = threads.size(); i > 1; --i) {
    const std::uint64_t pick = (random_bits() >> 32U) * i >> 32U;
    std::swap(threads[i - 1], threads[pick]);
  }
}

void run_thread(void* /*argument*/) {
  race::acquire(the_block.race.data());
  try {
    the_block.kernel->body(the_block.kernel->argument);
  } catch (const std::exception& error) {
    the_block.fault = fmt::format("thread {}: {}", text_of(this_thread->index), error.what());
  }
  race::release(the_block.race.data());
  --the_block.live;
}

// In order of their numbers; a block has no more warps than gatherings are kept for.
void make_threads() {
  const dim3& dim = the_block.kernel->block;
  const auto size = static_cast<int>(dim.x * dim.y * dim.z);
  while (std::ssize(the_block.threads) < size) {
    the_block.threads.push_back(std::make_unique<Thread>());
  }
  the_block.size = size;
  the_block.gatherings.resize(static_cast<std::size_t>((size + kLanes - 1) / kLanes));
  for (int i = 0; i < size; ++i) {
    Thread& thread = *the_block.threads[static_cast<std::size_t>(i)];
    const auto number = static_cast<unsigned>(i);
    thread.index = {number % dim.x, number / dim.x % dim.y, number / (dim.x * dim.y)};
    thread.number = i;
    thread.lane = i % kLanes;
    thread.warp = i / kLanes;
  }
}

void begin_block() {
  Block& block = the_block;
  block.live = block.size;
  block.arrived = block.holding = 0;
  block.ready.clear();
  for (auto& gatherings : block.gatherings) {
    gatherings.clear();
  }
  for (int i = 0; i < block.size; ++i) {
    Thread& thread = *block.threads[static_cast<std::size_t>(i)];
    thread.fiber.prepare(run_thread, nullptr);
    thread.waits_in = nullptr;
    thread.copies.clear();
    thread.group_ends.clear();
    block.ready.push_back(&thread);
  }
  const std::size_t bytes = block.kernel->shared_bytes;
  allow(block.shared, kMostShared + kBehind);
  std::memset(block.shared, kPoison, bytes);
  std::memset(block.shared + bytes, 0x5a, kBehind);
  forbid(block.shared + (bytes + 7) / 8 * 8, kMostShared + kBehind - (bytes + 7) / 8 * 8);
}

void end_block() {
  Block& block = the_block;
  allow(block.shared, kMostShared + kBehind);
  const std::byte* const end = block.shared + block.kernel->shared_bytes;
  const bool kept =
      std::all_of(end, end + kBehind, [](std::byte byte) { return byte == std::byte{0x5a}; });
  if (!kept && block.fault.empty()) {
    block.fault = "writes behind its shared memory";
  }
}

void run_block() {
  Block& block = the_block;
  begin_block();
  race::release(block.race.data());
  while (block.live > 0 && block.fault.empty()) {
    if (block.ready.empty()) {
      block.fault = "hangs: " + who_waits();
      break;
    }
    block.round.swap(block.ready);
    block.ready.clear();
    shuffle(block.round);
    for (Thread* const thread : block.round) {
      this_thread = thread;
      thread->fiber.resume();
      if (!block.fault.empty()) {
        break;
      }
    }
  }
  race::acquire(block.race.data());
  end_block();
}

[[noreturn]] void throw_fault() {
  Block& block = the_block;
  for (const auto& thread : block.threads) {
    thread->fiber.abandon();
  }
  throw Error(Exit::kInternal,
              fmt::format("CUDA on the host: the kernel launched at {}, block {}: {}",
                          text_of(block.kernel->where), text_of(block_index),
                          std::exchange(block.fault, "")),
              block.kernel->where);
}

}  // namespace

void set_seed(std::uint64_t seed) { state = seed * 2 + 1; }

std::uint64_t random_bits() {
  state ^= state >> 12U;
  state ^= state << 25U;
  state ^= state >> 27U;
  return state * 0x2545f4914f6cdd1dULL;
}

void fail(const std::string& what) {
  the_block.fault = fmt::format("thread {}: {}", text_of(this_thread->index), what);
  race::release(the_block.race.data());
  this_thread->fiber.suspend();
  std::abort();
}

void fail(const std::string& what, Where where) {
  fail(fmt::format("{} ({})", what, text_of(where)));
}

void* shared_memory(std::size_t bytes) {
  if (bytes > the_block.kernel->shared_bytes) {
    fail(fmt::format("wants {} bytes of shared memory, but was launched with {}", bytes,
                     the_block.kernel->shared_bytes));
  }
  return the_block.shared;
}

void check_shared(const void* place, std::size_t bytes, std::size_t alignment, Where where) {
  const auto* const byte = static_cast<const std::byte*>(place);
  if (byte < the_block.shared || byte + bytes > the_block.shared + the_block.kernel->shared_bytes) {
    fail("an address that is not in the block's shared memory", where);
  }
  if (reinterpret_cast<std::uintptr_t>(place) % alignment != 0) {
    fail(fmt::format("an address that is not on a border of {} bytes", alignment), where);
  }
}

int barrier(const char* name, bool predicate, Where where) {
  const race::Unwatched unwatched;
  Block& block = the_block;
  if (block.arrived > 0 && !same(block.barrier, where)) {
    fail(fmt::format("is in {} ({}), while others wait in {} ({})", name, text_of(where),
                     block.barrier_name, text_of(block.barrier)));
  }
  block.barrier = where;
  block.barrier_name = name;
  block.holding += predicate ? 1 : 0;
  race::release(&block.race[1]);
  if (++block.arrived == block.size) {
    block.held = std::exchange(block.holding, 0);
    block.arrived = 0;
    for (int i = 0; i < block.size; ++i) {
      wake(block.threads[static_cast<std::size_t>(i)].get());
    }
  }
  wait(name, where);  // also the last one, so that any may go on first
  race::acquire(&block.race[1]);
  return block.held;
}

void together(unsigned mask, const char* name, void* operands, Join join, Where where) {
  const race::Unwatched unwatched;
  Thread& me = *this_thread;
  const int lanes = std::min(kLanes, the_block.size - me.warp * kLanes);
  const unsigned there = lanes == kLanes ? ~0U : (1U << static_cast<unsigned>(lanes)) - 1;
  if ((mask >> static_cast<unsigned>(me.lane) & 1U) == 0) {
    fail(fmt::format("is not in its own mask {:08x} of {}", mask, name), where);
  }
  if ((mask & ~there) != 0) {
    fail(fmt::format("the mask {:08x} of {} has lanes beyond the block", mask, name), where);
  }
  auto& open = the_block.gatherings[static_cast<std::size_t>(me.warp)];
  const unsigned bit = 1U << static_cast<unsigned>(me.lane);
  auto found = std::find_if(open.begin(), open.end(), [&](const auto& one) {
    return one->mask == mask && (one->here & bit) == 0;
  });
  if (found == open.end()) {
    open.push_back(std::make_unique<Gathering>());
    found = std::prev(open.end());
    (*found)->mask = mask;
    (*found)->name = name;
    (*found)->where = where;
  }
  Gathering& all = **found;
  if (!same(all.where, where) || (all.name != name && std::string_view(all.name) != name)) {
    fail(fmt::format("is in {} ({}), while lanes of its warp wait in {} ({})", name, text_of(where),
                     all.name, text_of(all.where)));
  }
  all.here |= bit;
  all.operands[static_cast<std::size_t>(me.lane)] = operands;
  all.threads[static_cast<std::size_t>(me.lane)] = &me;
  race::release(&the_block.gatherings[static_cast<std::size_t>(me.warp)]);
  if (all.here != mask) {
    wait(name, where);
  } else {
    void* lanes_operands[kLanes];
    std::copy(all.operands.begin(), all.operands.end(), lanes_operands);
    join(lanes_operands, where);
    for (Thread* const thread : all.threads) {
      if (thread != nullptr && thread != &me) {
        wake(thread);
      }
    }
    open.erase(found);
  }
  race::acquire(&the_block.gatherings[static_cast<std::size_t>(me.warp)]);
}

void run(const Kernel& kernel) {
  const std::lock_guard lock(one_kernel);
  static const std::unique_ptr<std::byte[]> memory(new std::byte[kMostShared + kBehind + 1024]);
  const auto address = reinterpret_cast<std::uintptr_t>(memory.get());
  the_block.shared = memory.get() + ((address + 1023) / 1024 * 1024 - address);
  the_block.kernel = &kernel;
  block_dim = kernel.block;
  grid_dim = kernel.grid;
  make_threads();
  // Blocks in the order start + i step, which meets each once.
  const std::uint64_t blocks = std::uint64_t{kernel.grid.x} * kernel.grid.y * kernel.grid.z;
  std::uint64_t step = random_bits() % blocks + 1;
  while (std::gcd(step, blocks) != 1) {
    ++step;
  }
  std::uint64_t at = random_bits() % blocks;
  for (std::uint64_t i = 0; i < blocks; ++i, at = (at + step) % blocks) {
    block_index = {static_cast<unsigned>(at % kernel.grid.x),
                   static_cast<unsigned>(at / kernel.grid.x % kernel.grid.y),
                   static_cast<unsigned>(at / kernel.grid.x / kernel.grid.y)};
    run_block();
    if (!the_block.fault.empty()) {
      throw_fault();
    }
  }
  this_thread = nullptr;
}

}  // namespace moesaic::cuda_on_host
