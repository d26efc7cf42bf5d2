// The orders of pipeline schedules, run by a simulation of all stages.
#include "engine/pipeline.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <tuple>

#include "base/share.h"

namespace moesaic::engine {
namespace {

using Item = std::tuple<Pass, int, int>;  // direction, micro-batch, chunk of the whole model

struct Simulated {
  bool finished = true;
  double seconds = 0.0;  // where each step takes one
  int most_in_flight = 0;
};

// Every stage does its steps in order, each as soon as what it waits for is there.
Simulated simulate(const std::vector<std::vector<PipelineStep>>& orders, int chunks) {
  const int stages = static_cast<int>(orders.size());
  const int last = stages * chunks - 1;
  std::map<Item, double> done;
  std::vector<std::size_t> next(orders.size(), 0);
  std::vector<double> clock(orders.size(), 0.0);
  std::vector<int> in_flight(orders.size(), 0);
  Simulated run;
  for (bool moved = true; moved;) {
    moved = false;
    for (int stage = 0; stage < stages; ++stage) {
      const auto s = static_cast<std::size_t>(stage);
      while (next[s] < orders[s].size()) {
        const PipelineStep& step = orders[s][next[s]];
        const int chunk = step.chunk * stages + stage;
        const bool forward = step.pass == Pass::kForward;
        const bool first = forward ? chunk == 0 : false;
        const Item before = forward         ? Item{Pass::kForward, step.micro_batch, chunk - 1}
                            : chunk == last ? Item{Pass::kForward, step.micro_batch, chunk}
                                            : Item{Pass::kBackward, step.micro_batch, chunk + 1};
        if (!first && !done.contains(before)) {
          break;
        }
        const Item own{step.pass, step.micro_batch, chunk};
        EXPECT_FALSE(done.contains(own)) << "done twice";
        EXPECT_TRUE(forward || done.contains({Pass::kForward, step.micro_batch, chunk}));
        clock[s] = std::max(clock[s], first ? 0.0 : done[before]) + 1.0;
        done[own] = clock[s];
        in_flight[s] += forward ? 1 : -1;
        if (stage == 0) {
          run.most_in_flight = std::max(run.most_in_flight, in_flight[s]);
        }
        ++next[s];
        moved = true;
      }
    }
  }
  for (std::size_t s = 0; s < orders.size(); ++s) {
    run.finished = run.finished && next[s] == orders[s].size();
    run.seconds = std::max(run.seconds, clock[s]);
  }
  return run;
}

std::vector<std::vector<PipelineStep>> all_orders(int stages, int chunks, int micro_batches) {
  std::vector<std::vector<PipelineStep>> orders;
  for (int stage = 0; stage < stages; ++stage) {
    orders.push_back(training_order(stage, stages, chunks, micro_batches));
    EXPECT_EQ(std::ssize(orders.back()), 2 * chunks * micro_batches);
  }
  return orders;
}

// Protects: no stage waits for a step that waits for it, everything is computed once, and the time
// lost is that of the formula.
TEST(Pipeline, OneForwardOneBackward) {
  for (int stages = 1; stages <= 6; ++stages) {
    for (const int micro_batches : {1, 2, 3, 5, 8, 13}) {
      const Simulated run = simulate(all_orders(stages, 1, micro_batches), 1);
      EXPECT_TRUE(run.finished) << stages << " stages, " << micro_batches;
      EXPECT_EQ(run.most_in_flight, std::min(stages, micro_batches));
      EXPECT_NEAR(1.0 - 2.0 * micro_batches / run.seconds, ideal_bubble(stages, 1, micro_batches),
                  1e-12);
    }
  }
}

TEST(Pipeline, Interleaved) {
  for (int stages = 2; stages <= 5; ++stages) {
    for (int chunks = 2; chunks <= 4; ++chunks) {
      for (const int rounds : {1, 2, 3}) {
        const int micro_batches = rounds * stages;
        const Simulated run = simulate(all_orders(stages, chunks, micro_batches), chunks);
        EXPECT_TRUE(run.finished) << stages << " stages, " << chunks << " chunks";
        const double bubble = 1.0 - 2.0 * chunks * micro_batches / run.seconds;
        EXPECT_NEAR(bubble, ideal_bubble(stages, chunks, micro_batches), 1e-12);
        EXPECT_LT(bubble, ideal_bubble(stages, 1, micro_batches));
      }
    }
  }
  EXPECT_THROW(training_order(0, 2, 2, 3), Error);
}

// Protects scoring: forward alone does not wait in a circle either.
TEST(Pipeline, ForwardAlone) {
  for (int stages = 1; stages <= 4; ++stages) {
    for (int chunks = 1; chunks <= 3; ++chunks) {
      const std::vector<std::vector<PipelineStep>> orders(static_cast<std::size_t>(stages),
                                                          forward_order(stages, chunks, 7));
      EXPECT_TRUE(simulate(orders, chunks).finished);
      EXPECT_EQ(std::ssize(orders[0]), 7 * chunks);
    }
  }
}

// Protects messages, whose tags do not count micro-batches: each chunk goes through them in order.
TEST(Pipeline, MicroBatchesOfAChunkAscend) {
  const auto check = [](const std::vector<PipelineStep>& order, const std::string& what) {
    std::map<std::pair<Pass, int>, int> next;
    for (const PipelineStep& step : order) {
      EXPECT_EQ(step.micro_batch, next[std::make_pair(step.pass, step.chunk)]++) << what;
    }
  };
  for (int stages = 1; stages <= 5; ++stages) {
    for (int chunks = 1; chunks <= 4; ++chunks) {
      const std::string what = std::to_string(stages) + " stages, " + std::to_string(chunks);
      check(forward_order(stages, chunks, 7), what);
      for (int stage = 0; stage < stages; ++stage) {
        check(training_order(stage, stages, chunks, 3 * stages), what);
      }
    }
  }
}

// Micro-batch and sending chunk of each message in the order of one end: by sender, receiver and
// direction.
using Lane = std::tuple<int, int, Pass>;
using Messages = std::map<Lane, std::vector<std::pair<int, int>>>;
void add_messages(const std::vector<PipelineStep>& order, int stage, int stages, int chunks,
                  Messages& sent, Messages& received) {
  const int last = stages * chunks - 1;
  for (const PipelineStep& step : order) {
    const int chunk = step.chunk * stages + stage;
    const int ahead = step.pass == Pass::kForward ? 1 : -1;
    const int from = chunk - ahead, to = chunk + ahead;
    if (from >= 0 && from <= last) {
      received[{from % stages, stage, step.pass}].emplace_back(step.micro_batch, from);
    }
    if (to >= 0 && to <= last) {
      sent[{stage, to % stages, step.pass}].emplace_back(step.micro_batch, chunk);
    }
  }
}

// Protects NCCL, which knows no tags: in each direction, what one stage sends another is received
// in the order of sending.
TEST(Pipeline, MessagesOfADirectionKeepTheirOrder) {
  for (int stages = 2; stages <= 5; ++stages) {
    for (int chunks = 1; chunks <= 3; ++chunks) {
      for (const bool training : {false, true}) {
        Messages sent, received;
        for (int stage = 0; stage < stages; ++stage) {
          add_messages(training ? training_order(stage, stages, chunks, 3 * stages)
                                : forward_order(stages, chunks, 3 * stages + 1),
                       stage, stages, chunks, sent, received);
        }
        EXPECT_EQ(sent, received) << stages << " " << chunks << " " << training;
      }
    }
  }
}

// Protects: layers and other things are shared out without gap or overlap, as evenly as can be.
TEST(Shares, CoverEverythingOnce) {
  for (std::int64_t n = 0; n <= 13; ++n) {
    for (std::int64_t parts = 1; parts <= 5; ++parts) {
      std::int64_t layers = 0;
      std::int64_t begin = 0;
      for (std::int64_t i = 0; i < parts; ++i) {
        const Slice share = share_of(n, i, parts);
        EXPECT_EQ(share.begin, begin);
        EXPECT_LE(std::abs(share.count * parts - n), parts);
        begin = share.end();
        const Slice chunk = layers_of_chunk(n, i, parts);
        EXPECT_EQ(chunk.begin, layers);
        EXPECT_EQ(chunk.count, n / parts + (i < n % parts ? 1 : 0));
        layers = chunk.end();
      }
      EXPECT_EQ(begin, n);
      EXPECT_EQ(layers, n);
    }
  }
}

}  // namespace
}  // namespace moesaic::engine
