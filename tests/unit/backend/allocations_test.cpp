// What the steady state of training and scoring asks of the system: every operator new of this
// program is counted, and the pages that the process touches for the first time.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <functional>
#include <new>
#include <vector>

#include "config/validate.h"
#include "engine/pipeline.h"
#include "support/random_batches.h"
#include "train/stepper.h"

namespace {
std::atomic<std::int64_t> allocations = 0;
std::atomic<std::int64_t> allocated = 0;  // bytes
std::atomic<std::int64_t> largest = 0;    // bytes of one

void* counted(std::size_t bytes) {
  const auto size = static_cast<std::int64_t>(bytes);
  ++allocations;
  allocated += size;
  for (std::int64_t seen = largest; seen < size && !largest.compare_exchange_weak(seen, size);) {
  }
  void* const block = std::malloc(std::max<std::size_t>(bytes, 1));
  return block != nullptr ? block : throw std::bad_alloc();
}
}  // namespace

void* operator new(std::size_t bytes) { return counted(bytes); }
void* operator new[](std::size_t bytes) { return counted(bytes); }
void operator delete(void* block) noexcept { std::free(block); }
void operator delete[](void* block) noexcept { std::free(block); }
void operator delete(void* block, std::size_t) noexcept { std::free(block); }
void operator delete[](void* block, std::size_t) noexcept { std::free(block); }

namespace moesaic::testing {
namespace {

struct Use {
  std::int64_t allocations = 0, bytes = 0, largest = 0, faults = 0;
};

// Page faults that a step may have (1 MiB): a few come from a sanitizer or from another thread.
constexpr std::int64_t kFewFaults = 256;

std::int64_t page_faults() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_minflt;
}

Use use_of(const std::function<void()>& work) {
  largest = 0;
  const Use before{allocations, allocated, 0, page_faults()};
  work();
  return {allocations - before.allocations, allocated - before.bytes, largest,
          page_faults() - before.faults};
}

config::Config steady_config() {
  config::Config c;
  c.model = {.path = {},
             .layers = 4,
             .d_model = 64,
             .heads = 2,
             .vocab_size = 1000,
             .max_seq = 512,
             .experts = 16,
             .shared_experts = 1,
             .top_k = 2,
             .expert_d_ff = 64};
  c.data.seq_len = 512;
  c.train.batch = 8;
  c.train.micro_batch = 4;
  c.train.lr = c.train.min_lr = 0.0;  // every step routes as the one before it
  c.train.steps = 12;
  c.run.precision = DType::kBf16;
  c.run.threads = 2;
  config::resolve(c, "train");
  return c;
}

// A repeated step asks for as many blocks as the one before, all of them small (the largest is a
// choice of each expert slot), and touches no new page: nothing large comes from the system and
// goes back to it.
void expect_steady(const std::function<void(std::int64_t step)>& run) {
  run(1);
  run(2);
  const Use first = use_of([&] { run(3); });
  EXPECT_GT(first.allocations, 0);
  std::int64_t faults = 0;
  for (std::int64_t step = 4; step <= 8; ++step) {
    const Use use = use_of([&] { run(step); });
    EXPECT_EQ(use.allocations, first.allocations) << "step " << step;
    EXPECT_EQ(use.bytes, first.bytes) << "step " << step;
    EXPECT_LE(use.largest, 64 << 10) << "step " << step;
    faults += use.faults;
  }
  EXPECT_LE(faults, 5 * kFewFaults);
}

// Protects: a training step takes no memory from the system once shapes repeat.
TEST(AllocationsTest, TrainingIsSteady) {
  const config::Config config = steady_config();
  const comm::Mesh mesh = comm::Mesh::single();
  engine::Instance instance(config, mesh, engine::Use::kTraining);
  instance.parameters.initialise(*instance.backend, config.train.seed);
  train::Stepper stepper(config, instance, 1);
  const data::StepBatches batches = random_batches(config, 1);
  expect_steady([&](std::int64_t step) { stepper.update(stepper.compute(batches, step)); });
}

// Protects: the same for the batches of score.
TEST(AllocationsTest, ScoringIsSteady) {
  const config::Config config = steady_config();
  const comm::Mesh mesh = comm::Mesh::single();
  engine::Instance instance(config, mesh, engine::Use::kManyRows);
  instance.parameters.initialise(*instance.backend, config.train.seed);
  const data::StepBatches batches = random_batches(config, 1);
  model::Context ctx = instance.context();
  ctx.batch.dropless = true;
  expect_steady([&](std::int64_t) {
    engine::forward_all(instance, ctx, batches.micro_batches,
                        [&](std::size_t, const Tensor& hidden) {
                          instance.transformer.head().log_probs(ctx, hidden);
                        });
  });
}

}  // namespace
}  // namespace moesaic::testing
