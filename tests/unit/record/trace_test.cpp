#include "record/trace.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <functional>

#include "base/error.h"
#include "files/hdf5/file.h"
#include "files/hdf5/thread.h"
#include "support/temp_dir.h"

namespace moesaic::record {
namespace {

using moesaic::testing::TempDir;

TraceAxes axes_of(std::int64_t ranks) {
  TraceAxes axes;
  axes.moe_layers = {1, 3};
  axes.experts = 4;
  axes.choices = 2;
  axes.phases = {"data", "forward"};
  axes.tasks = {"none", "code", "prose"};
  axes.corpora = {"web"};
  axes.groups = {"tp", "dp"};
  axes.ranks = ranks;
  axes.attributes = {{"top_k", "2"}, {"every", "1"}, {"config", "[model]\nlayers = 4\n"}};
  return axes;
}

/// A row that obeys every law: 6 tokens, top-2, 2 layers of 4 experts.
TraceRow row_of(std::int64_t step, std::int64_t ranks) {
  TraceRow row;
  row.step = step;
  row.loss = 3.0 / static_cast<double>(step);
  row.tokens = 6;
  row.targets = 5;
  row.seconds = 0.5;
  for (auto* list : {&row.aux_loss, &row.z_loss, &row.gate_entropy, &row.load_max_over_mean}) {
    *list = {1.0, 1.5};
  }
  row.utilisation = {0.5, 1.0};
  row.expert_tokens = {3, 3, 3, 3, 12, 0, 0, 0};
  row.expert_processed = {3, 3, 3, 3, 8, 2, 0, 0};
  row.expert_dropped = {0, 0, 0, 0, 2, 0, 0, 0};
  row.expert_rerouted = {0, 0, 0, 0, 2, 0, 0, 0};
  row.expert_slots = std::vector<std::int64_t>(8, 8);
  row.expert_state = std::vector<std::int64_t>(8, 1);
  row.task_choice_tokens = {0, 0, 0, 2, 0, 4, 0, 0, 0, 2, 0, 4};
  row.task_expert_tokens = {0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 0, 0, 0, 0, 4, 0, 0, 0, 8, 0, 0, 0};
  row.task_tokens = {0, 2, 4};
  row.time = {0.2, 0.3};
  row.time_mean = {0.1, 0.3};
  row.traffic = {1024.0, 0.0};
  row.rank_seconds = std::vector<double>(static_cast<std::size_t>(ranks), 0.25);
  return row;
}

void add_steps(TraceWriter& trace, std::int64_t first, std::int64_t last, std::int64_t ranks) {
  for (std::int64_t step = first; step <= last; ++step) {
    trace.add(row_of(step, ranks));
    trace.add(EvalRow{step, 2.0, 1.0, {NAN, 2.0, 2.0}, {2.0}});
    trace.event(step, "note", fmt::format("step {}", step));
  }
}

template <class T>
std::vector<T> read(const std::filesystem::path& path, const std::string& name) {
  return files::hdf5_run([&] { return files::Hdf5File::open(path).read_all<T>(name); });
}

// A trace that is flushed in parts is one sound trace.
TEST(Trace, Append) {
  const TempDir dir;
  const auto path = dir / "below" / "t.h5";
  TraceWriter trace = TraceWriter::create(path, axes_of(2), 1e9);
  add_steps(trace, 1, 3, 2);
  EXPECT_TRUE(read<std::int64_t>(path, "/step").empty());
  EXPECT_TRUE(trace.flush());
  EXPECT_EQ(read<std::int64_t>(path, "/step"), (std::vector<std::int64_t>{1, 2, 3}));
  add_steps(trace, 4, 300, 2);
  trace.write_all();
  EXPECT_EQ(verify_trace(path), std::vector<std::string>{});
  EXPECT_EQ(read<std::int64_t>(path, "/events/step").size(), 300U);
  EXPECT_EQ(read<std::int64_t>(path, "/task_expert_tokens").size(), 300U * 24U);
  EXPECT_EQ(read<double>(path, "/loss")[2], 1.0);
}

// flush_seconds = 0 writes at each row; a file of another run is set aside, not overwritten.
TEST(Trace, CreateSetsAside) {
  const TempDir dir;
  {
    TraceWriter trace = TraceWriter::create(dir / "t.h5", axes_of(1), 0.0);
    trace.add(row_of(7, 1));
    EXPECT_EQ(read<std::int64_t>(dir / "t.h5", "/step"), std::vector<std::int64_t>{7});
  }
  TraceWriter trace = TraceWriter::create(dir / "t.h5", axes_of(1), 0.0);
  EXPECT_EQ(read<std::int64_t>(dir / "t.h5.1", "/step"), std::vector<std::int64_t>{7});
}

// After a restart, rows, evaluations and events past the checkpoint are gone, and more ranks fit.
TEST(Trace, ResumeCuts) {
  const TempDir dir;
  const auto path = dir / "t.h5";
  {
    TraceWriter trace = TraceWriter::create(path, axes_of(2), 1e9);
    add_steps(trace, 1, 9, 2);
    trace.write_all();
  }
  TraceWriter trace = TraceWriter::resume(path, axes_of(3), 1e9, 5);
  add_steps(trace, 6, 7, 3);
  trace.write_all();
  EXPECT_EQ(verify_trace(path), std::vector<std::string>{});
  EXPECT_EQ(read<std::int64_t>(path, "/step"), (std::vector<std::int64_t>{1, 2, 3, 4, 5, 6, 7}));
  EXPECT_EQ(read<std::int64_t>(path, "/eval/step").size(), 7U);
  const auto kinds =
      files::hdf5_run([&] { return files::Hdf5File::open(path).read_strings("/events/kind"); });
  EXPECT_EQ(kinds.size(), 8U);
  EXPECT_EQ(kinds[5], "restart");
  const auto seconds = read<double>(path, "/rank_seconds");
  ASSERT_EQ(seconds.size(), 21U);
  EXPECT_TRUE(std::isnan(seconds[2]));
  EXPECT_EQ(seconds[20], 0.25);
  EXPECT_EQ(read<std::int64_t>(path, "/rank"), (std::vector<std::int64_t>{0, 1, 2}));
}

// Fewer ranks after a restart leave NaN; other axes must be the same, and the error says which.
TEST(Trace, ResumeChecksAxes) {
  const TempDir dir;
  const auto path = dir / "t.h5";
  TraceWriter::create(path, axes_of(2), 1e9).write_all();
  TraceWriter trace = TraceWriter::resume(path, axes_of(1), 1e9, 0);
  add_steps(trace, 1, 1, 1);
  trace.write_all();
  EXPECT_TRUE(std::isnan(read<double>(path, "/rank_seconds").at(1)));
  TraceAxes other = axes_of(1);
  other.moe_layers = {1, 2};
  try {
    TraceWriter::resume(path, other, 1e9, 1);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::kMismatch);
    EXPECT_NE(std::string(error.what()).find("/layer"), std::string::npos);
  }
}

// Other tasks and corpora after a restart find their places by name; earlier rows have none of
// them.
TEST(Trace, ResumeWidensNames) {
  const TempDir dir;
  const auto path = dir / "t.h5";
  {
    TraceWriter trace = TraceWriter::create(path, axes_of(1), 1e9);
    add_steps(trace, 1, 1, 1);
    trace.write_all();
  }
  TraceAxes axes = axes_of(1);
  axes.tasks = {"none", "maths", "code"};
  axes.corpora = {"books", "web"};
  {
    TraceWriter trace = TraceWriter::resume(path, axes, 1e9, 1);
    trace.add(row_of(2, 1));
    trace.add(EvalRow{2, 2.5, 1.0, {NAN, 3.0, 4.0}, {5.0, 6.0}});
    trace.write_all();
  }
  const auto names = [&](const char* axis) {
    return files::hdf5_run([&] { return files::Hdf5File::open(path).read_strings(axis); });
  };
  EXPECT_EQ(names("/task"), (std::vector<std::string>{"none", "code", "prose", "maths"}));
  EXPECT_EQ(names("/corpus"), (std::vector<std::string>{"web", "books"}));
  EXPECT_EQ(read<std::int64_t>(path, "/task_tokens"),
            (std::vector<std::int64_t>{0, 2, 4, 0, 0, 4, 0, 2}));
  const auto chosen = read<std::int64_t>(path, "/task_expert_tokens");  // [2, 2, 4, 4]
  ASSERT_EQ(chosen.size(), 64U);
  EXPECT_EQ(chosen[8], 2);        // step 1, layer 0, prose
  EXPECT_EQ(chosen[32 + 4], 2);   // step 2, layer 0, code
  EXPECT_EQ(chosen[32 + 8], 0);   // prose
  EXPECT_EQ(chosen[32 + 12], 1);  // maths
  const auto by_corpus = read<double>(path, "/eval/loss_by_corpus");
  ASSERT_EQ(by_corpus.size(), 4U);
  EXPECT_TRUE(std::isnan(by_corpus[1]));
  EXPECT_EQ(by_corpus[2], 6.0);
  EXPECT_EQ(by_corpus[3], 5.0);
  const auto by_task = read<double>(path, "/eval/loss_by_task");
  ASSERT_EQ(by_task.size(), 8U);
  EXPECT_EQ(by_task[5], 4.0);
  EXPECT_TRUE(std::isnan(by_task[6]));
  EXPECT_EQ(by_task[7], 3.0);
  EXPECT_EQ(verify_trace(path), std::vector<std::string>{});
}

// What a run computed behind its checkpoint is said to be lost; what it could not write as well,
// and verify knows of it.
TEST(Trace, ResumeSaysWhatIsLost) {
  const TempDir dir;
  const auto path = dir / "t.h5";
  {
    TraceWriter trace = TraceWriter::create(path, axes_of(1), 1e9);
    add_steps(trace, 1, 9, 1);
    trace.write_all();
  }
  const auto resume = [&](std::int64_t last, std::int64_t next) {
    TraceWriter trace = TraceWriter::resume(path, axes_of(1), 1e9, last);
    trace.add(row_of(next, 1));
    trace.write_all();
    return files::hdf5_run(
        [&] { return files::Hdf5File::open(path).read_strings("/events/message"); });
  };
  EXPECT_EQ(resume(5, 6).back(),
            "resumed from step 5; steps 6 to 9 were not saved and are computed again");
  EXPECT_EQ(resume(8, 9).back(), "of steps 7 to 8 there is no row: the trace could not be written");
  EXPECT_EQ(verify_trace(path), std::vector<std::string>{});
  EXPECT_EQ(resume(9, 12).back(), "resumed from step 9");
  EXPECT_EQ(verify_trace(path).size(), 1U);
}

// A file that cannot be read is kept aside; the run goes on with a new one.
TEST(Trace, ResumeOfDamage) {
  const TempDir dir;
  testing::write_file(dir / "t.h5", "not a trace");
  TraceWriter trace = TraceWriter::resume(dir / "t.h5", axes_of(1), 1e9, 4);
  add_steps(trace, 5, 6, 1);
  trace.write_all();
  EXPECT_EQ(verify_trace(dir / "t.h5"), std::vector<std::string>{});
  EXPECT_EQ(testing::read_file(dir / "t.h5.1"), "not a trace");
}

// A reader that holds the file delays rows, and loses none.
TEST(Trace, ReaderInTheWay) {
  const TempDir dir;
  const auto path = dir / "t.h5";
  TraceWriter trace = TraceWriter::create(path, axes_of(1), 1e9);
  const int reader = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  ASSERT_EQ(::flock(reader, LOCK_SH), 0);
  add_steps(trace, 1, 2, 1);
  EXPECT_FALSE(trace.flush());
  ::close(reader);
  EXPECT_TRUE(trace.flush());
  EXPECT_EQ(read<std::int64_t>(path, "/step").size(), 2U);
}

// One that never lets go costs nothing of what a checkpoint needs on disk.
TEST(Trace, ReaderThatStays) {
  const TempDir dir;
  const auto path = dir / "t.h5";
  TraceWriter trace = TraceWriter::create(path, axes_of(1), 1e9);
  const int reader = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  ASSERT_EQ(::flock(reader, LOCK_SH), 0);
  add_steps(trace, 1, 2, 1);
  trace.write_all();
  EXPECT_EQ(read<std::int64_t>(path, "/step").size(), 2U);
  add_steps(trace, 3, 3, 1);
  ::close(reader);
  EXPECT_TRUE(trace.flush());
  EXPECT_EQ(read<std::int64_t>(path, "/step").size(), 3U);
}

// Protects: a job with more experts continues a trace, and so does one that went back to fewer: the
// others are absent (0) in their rows.
TEST(Trace, ExpertsComeAndGo) {
  const TempDir dir;
  const auto path = dir / "t.h5";
  TraceAxes axes = axes_of(1);
  {
    TraceWriter trace = TraceWriter::create(path, axes, 1e9);
    trace.add(row_of(1, 1));
    trace.write_all();
  }
  axes.experts = 5;
  TraceRow row = row_of(2, 1);
  for (auto* counts : {&row.expert_tokens, &row.expert_processed, &row.expert_dropped,
                       &row.expert_rerouted, &row.expert_slots, &row.expert_state}) {
    *counts = {(*counts)[0], (*counts)[1], (*counts)[2], 0, (*counts)[3],
               (*counts)[4], (*counts)[5], (*counts)[6], 0, (*counts)[7]};
  }
  std::vector<std::int64_t> by_task;
  for (std::size_t i = 0; i < row.task_expert_tokens.size(); i += 4) {
    const auto at = row.task_expert_tokens.begin() + static_cast<std::ptrdiff_t>(i);
    by_task.insert(by_task.end(), {at[0], at[1], at[2], 0, at[3]});
  }
  row.task_expert_tokens = by_task;
  {
    TraceWriter trace = TraceWriter::resume(path, axes, 1e9, 1);
    trace.add(row);
    trace.write_all();
  }
  axes.experts = 4;
  {
    TraceWriter trace = TraceWriter::resume(path, axes, 1e9, 2);
    trace.add(row_of(3, 1));
    trace.write_all();
  }
  EXPECT_EQ(verify_trace(path), std::vector<std::string>{});
  EXPECT_EQ(read<std::int64_t>(path, "/expert"), (std::vector<std::int64_t>{0, 1, 2, 3, 4}));
  EXPECT_EQ(read<std::int64_t>(path, "/expert_state"),
            (std::vector<std::int64_t>{1, 1, 1, 1, 0, 1, 1, 1, 1, 0,  //
                                       1, 1, 1, 0, 1, 1, 1, 1, 0, 1,  //
                                       1, 1, 1, 1, 0, 1, 1, 1, 1, 0}));
  EXPECT_EQ(read<std::int64_t>(path, "/expert_tokens")[10 + 4], 3);
}

// A trace of a program that knew fewer groups of ranks, in another order, goes on: the bytes of a
// group stand under its name, those of one that the file lacks nowhere.
TEST(Trace, OlderGroups) {
  const TempDir dir;
  const auto path = dir / "t.h5";
  {
    TraceWriter trace = TraceWriter::create(path, axes_of(1), 1e9);
    trace.add(row_of(1, 1));
    trace.write_all();
  }
  TraceAxes axes = axes_of(1);
  axes.groups = {"dp", "tp", "cp"};
  TraceRow row = row_of(2, 1);
  row.traffic = {5.0, 6.0, 7.0};
  {
    TraceWriter trace = TraceWriter::resume(path, axes, 1e9, 1);
    trace.add(row);
    trace.write_all();
  }
  EXPECT_EQ(verify_trace(path), std::vector<std::string>{});
  EXPECT_EQ(read<double>(path, "/traffic"), (std::vector<double>{1024.0, 0.0, 6.0, 5.0}));
}

// A model without experts has a trace without their arrays.
TEST(Trace, Dense) {
  const TempDir dir;
  TraceAxes axes = axes_of(1);
  axes.moe_layers = {};
  axes.experts = 0;
  TraceWriter trace = TraceWriter::create(dir / "t.h5", axes, 1e9);
  TraceRow row;
  row.step = 1;
  row.task_tokens = {0, 0, 0};
  row.time = row.time_mean = {0, 0};
  row.rank_seconds = {0};
  row.traffic = {0, 0};
  trace.add(row);
  trace.write_all();
  EXPECT_EQ(verify_trace(dir / "t.h5"), std::vector<std::string>{});
}

// Each broken law of the counts is found and named.
TEST(Trace, VerifyFinds) {
  const std::vector<std::pair<std::string, std::function<void(TraceRow&)>>> cases{
      {"follows", [](TraceRow& row) { row.step = 1; }},
      {"none between", [](TraceRow& row) { row.step = 9; }},
      {"tokens x top_k", [](TraceRow& row) { row.tokens = 7; }},
      {"sum(processed)", [](TraceRow& row) { row.expert_dropped[0] = 1; }},
      {"negative", [](TraceRow& row) { row.expert_slots[0] = -1; }},
      {"utilisation", [](TraceRow& row) { row.utilisation[1] = 1.5; }},
      {"utilisation", [](TraceRow& row) { row.utilisation[1] = NAN; }},
      {"task_expert_tokens", [](TraceRow& row) { row.task_expert_tokens[0] = 1; }},
      {"task_choice_tokens", [](TraceRow& row) { row.task_choice_tokens[3] = 1; }},
      {"phases", [](TraceRow& row) { row.seconds = 0.6; }},
  };
  for (const auto& [word, spoil] : cases) {
    const TempDir dir;
    TraceWriter trace = TraceWriter::create(dir / "t.h5", axes_of(1), 1e9);
    trace.add(row_of(1, 1));
    TraceRow row = row_of(2, 1);
    spoil(row);
    trace.add(row);
    trace.write_all();
    const auto problems = verify_trace(dir / "t.h5");
    ASSERT_EQ(problems.size(), 1U) << word;
    EXPECT_NE(problems[0].find(word), std::string::npos) << problems[0];
  }
}

// h5py, pandas and xarray open it with named axes, also while the writer lives.
TEST(Trace, OpensElsewhere) {
  const TempDir dir;
  TraceWriter trace = TraceWriter::create(dir / "t.h5", axes_of(2), 1e9);
  add_steps(trace, 1, 40, 2);
  ASSERT_TRUE(trace.flush());
  const std::string command = fmt::format("/usr/bin/python3 {}/e2e/check_trace.py {} 40",
                                          MOESAIC_TESTS_DIR, (dir / "t.h5").string());
  const int status = std::system(command.c_str());  // NOLINT(cert-env33-c): fixed command
  if (WEXITSTATUS(status) == 77) {
    GTEST_SKIP() << "h5py, pandas, xarray or h5netcdf is missing";
  }
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

}  // namespace
}  // namespace moesaic::record
