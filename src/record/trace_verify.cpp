#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "base/text.h"
#include "files/hdf5/file.h"
#include "files/hdf5/thread.h"
#include "files/problems.h"
#include "record/trace.h"
#include "record/trace_schema.h"

namespace moesaic::record {
namespace {

using Problems = std::vector<std::string>;

/// A trace in memory, as its arrays are asked for. `cells` = steps x layers.
struct Checked {
  const files::Hdf5File& file;
  std::vector<std::int64_t> steps;
  std::int64_t layers = 0, experts = 0, tasks = 0;

  std::vector<std::int64_t> counts(const std::string& name) const {
    return file.read_all<std::int64_t>(name);
  }
  std::vector<double> values(const std::string& name) const { return file.read_all<double>(name); }
  std::size_t cells() const { return steps.size() * static_cast<std::size_t>(layers); }
  std::string at(std::size_t cell) const {
    const auto width = static_cast<std::size_t>(layers);
    return fmt::format("step {} layer {}", steps[cell / width], cell % width);
  }
};

/// The sum of each consecutive group of `width` values.
template <class T>
std::vector<T> sums(const std::vector<T>& values, std::size_t width) {
  std::vector<T> result;
  for (std::size_t i = 0; i + width <= values.size() && width > 0; i += width) {
    const auto begin = values.begin() + static_cast<std::ptrdiff_t>(i);
    result.push_back(std::accumulate(begin, begin + static_cast<std::ptrdiff_t>(width), T{}));
  }
  return result;
}

/// Every array exists with the extents that its axes say. Nothing else is looked at if not.
template <class Row>
void check_extents(const files::Hdf5File& file, const std::vector<TraceColumn<Row>>& columns,
                   Problems& problems) {
  const std::int64_t rows = file.extents(columns.front().name).at(0);
  for (const TraceColumn<Row>& column : columns) {
    files::Extents expected{rows};
    bool empty_axis = false;
    for (const std::string& axis : column.axes) {
      expected.push_back(file.extents("/" + axis).at(0));
      empty_axis = empty_axis || expected.back() == 0;
    }
    if ((empty_axis || column.newer) && !file.has(column.name)) {
      continue;
    }
    const files::Extents extents = file.extents(column.name);
    if (extents != expected) {
      problems.push_back(fmt::format("{}: extents are [{}], its axes have [{}]", column.name,
                                     join(extents, ", "), join(expected, ", ")));
    }
  }
}

/// An integer attribute that may be stored as text; 0 if there is none.
std::int64_t number_attribute(const files::Hdf5File& file, const std::string& name) {
  if (!file.has_attribute("/", name)) {
    return 0;
  }
  const std::optional<std::int64_t> number = files::unless_damaged(
      [&]() -> std::optional<std::int64_t> { return file.int_attribute("/", name); });
  return number ? *number : std::atoll(file.string_attribute("/", name).c_str());
}

void check_steps(const Checked& trace, Problems& problems) {
  const std::int64_t every = number_attribute(trace.file, "every");
  std::vector<std::int64_t> excused;
  const auto kinds = trace.file.read_strings("/events/kind");
  const auto steps = trace.counts("/events/step");
  for (std::size_t i = 0; i < std::min(kinds.size(), steps.size()); ++i) {
    if (kinds[i] == kTraceGap) {
      excused.push_back(steps[i]);
    }
  }
  for (std::size_t i = 1; i < trace.steps.size(); ++i) {
    const std::int64_t gap = trace.steps[i] - trace.steps[i - 1];
    const bool is_excused = std::any_of(excused.begin(), excused.end(), [&](std::int64_t step) {
      return step > trace.steps[i - 1] && step < trace.steps[i];
    });
    if (gap <= 0) {
      problems.push_back(fmt::format("/step: {} follows {}", trace.steps[i], trace.steps[i - 1]));
    } else if (every > 0 && gap > every && !is_excused) {
      problems.push_back(fmt::format("/step: none between {} and {} (one in {} is due)",
                                     trace.steps[i - 1], trace.steps[i], every));
    }
  }
}

void check_not_negative(const Checked& trace, Problems& problems) {
  for (const TraceColumn<TraceRow>& column : trace_columns()) {
    const bool counted = column.stored == Stored::kI8 || column.stored == Stored::kI4;
    if (!counted || !trace.file.has(column.name)) {
      continue;
    }
    const auto values = trace.counts(column.name);
    const auto lowest = std::min_element(values.begin(), values.end());
    if (lowest != values.end() && *lowest < 0) {
      problems.push_back(fmt::format("{}: holds the negative count {}", column.name, *lowest));
    }
  }
}

/// One line for the first step and layer where two counts that must be equal are not.
void check_equal(const Checked& trace, const std::vector<std::int64_t>& left,
                 const std::vector<std::int64_t>& right, const std::string& law,
                 Problems& problems) {
  for (std::size_t cell = 0; cell < trace.cells(); ++cell) {
    if (left[cell] != right[cell]) {
      problems.push_back(
          fmt::format("{}: {} is {} against {}", trace.at(cell), law, left[cell], right[cell]));
      return;
    }
  }
}

void check_experts(const Checked& trace, Problems& problems) {
  const auto width = static_cast<std::size_t>(trace.experts);
  const auto chosen = sums(trace.counts("/expert_tokens"), width);
  auto done = sums(trace.counts("/expert_processed"), width);
  const auto dropped = sums(trace.counts("/expert_dropped"), width);
  for (std::size_t cell = 0; cell < trace.cells(); ++cell) {
    done[cell] += dropped[cell];
  }
  check_equal(trace, chosen, done, "sum(expert_tokens) = sum(processed) + sum(dropped)", problems);
  if (const std::int64_t top_k = number_attribute(trace.file, "top_k"); top_k > 0) {
    const auto tokens = trace.counts("/tokens");
    std::vector<std::int64_t> due;
    for (std::size_t cell = 0; cell < trace.cells(); ++cell) {
      due.push_back(tokens[cell / static_cast<std::size_t>(trace.layers)] * top_k);
    }
    // A token may stop early where a threshold says when it has enough.
    const bool fewer = trace.file.has_attribute("/", "router.threshold") &&
                       std::atof(trace.file.string_attribute("/", "router.threshold").c_str()) > 0;
    for (std::size_t cell = 0; fewer && cell < trace.cells(); ++cell) {
      due[cell] = std::clamp(chosen[cell], due[cell] / top_k, due[cell]);
    }
    check_equal(trace, chosen, due, "sum(expert_tokens) = tokens x top_k", problems);
  }
  const auto utilisation = trace.values("/utilisation");
  for (std::size_t cell = 0; cell < trace.cells(); ++cell) {
    if (!(utilisation[cell] >= 0.0 && utilisation[cell] <= 1.0 + 1e-6)) {
      problems.push_back(
          fmt::format("{}: utilisation is {}, not in [0, 1]", trace.at(cell), utilisation[cell]));
      return;
    }
  }
}

void check_tasks(const Checked& trace, Problems& problems) {
  const auto experts = static_cast<std::size_t>(trace.experts);
  const auto tasks = static_cast<std::size_t>(trace.tasks);
  const auto chosen = trace.counts("/expert_tokens");
  const auto by_task = trace.counts("/task_expert_tokens");
  for (std::size_t i = 0; i < chosen.size(); ++i) {
    const std::size_t cell = i / experts;
    std::int64_t sum = 0;
    for (std::size_t task = 0; task < tasks; ++task) {
      sum += by_task[(cell * tasks + task) * experts + i % experts];
    }
    if (sum != chosen[i]) {
      problems.push_back(fmt::format("{} expert {}: task_expert_tokens sums to {}, not {}",
                                     trace.at(cell), i % experts, sum, chosen[i]));
      return;
    }
  }
}

/// Each token chose some number of experts, and these numbers add up to its task's choices.
void check_choices(const Checked& trace, Problems& problems) {
  const auto tasks = static_cast<std::size_t>(trace.tasks);
  const auto tokens = trace.counts("/task_tokens");
  const auto by_task =
      sums(trace.counts("/task_expert_tokens"), static_cast<std::size_t>(trace.experts));
  const auto taken = trace.counts("/task_choice_tokens");
  const std::size_t most = taken.size() / std::max<std::size_t>(1, by_task.size());
  for (std::size_t i = 0; i < by_task.size(); ++i) {
    std::int64_t all = 0;
    std::int64_t choices = 0;
    for (std::size_t c = 0; c < most; ++c) {
      all += taken[i * most + c];
      choices += taken[i * most + c] * static_cast<std::int64_t>(c + 1);
    }
    const std::size_t cell = i / tasks;
    const std::int64_t due =
        tokens[cell / static_cast<std::size_t>(trace.layers) * tasks + i % tasks];
    if (all != due || choices != by_task[i]) {
      problems.push_back(fmt::format(
          "{} task {}: task_choice_tokens has {} tokens with {} choices, not {} with {}",
          trace.at(cell), i % tasks, all, choices, due, by_task[i]));
      return;
    }
  }
}

void check_phases(const Checked& trace, Problems& problems) {
  constexpr double kTolerance = 0.03;
  const auto phases = trace.values("/time");
  const auto seconds = trace.values("/seconds");
  const auto spent = sums(phases, phases.size() / std::max<std::size_t>(1, trace.steps.size()));
  for (std::size_t i = 0; i < spent.size(); ++i) {
    if (!(std::abs(spent[i] - seconds[i]) <= kTolerance * seconds[i] + 1e-6)) {
      problems.push_back(fmt::format("step {}: the phases sum to {} s, the step took {} s",
                                     trace.steps[i], spent[i], seconds[i]));
    }
  }
}

Problems problems_of(const files::Hdf5File& file) {
  Problems problems;
  files::check_format(file, kTraceSchema, kTraceVersion);
  check_extents(file, trace_columns(), problems);
  check_extents(file, eval_columns(), problems);
  if (!problems.empty()) {
    return problems;
  }
  Checked trace{file, file.read_all<std::int64_t>("/step"), file.extents("/layer").at(0),
                file.extents("/expert").at(0), file.extents("/task").at(0)};
  check_steps(trace, problems);
  check_not_negative(trace, problems);
  if (trace.layers > 0 && trace.experts > 0) {
    check_experts(trace, problems);
    if (trace.tasks > 0) {
      const std::size_t before = problems.size();
      check_tasks(trace, problems);
      if (problems.size() == before) {
        check_choices(trace, problems);
      }
    }
  }
  check_phases(trace, problems);
  return problems;
}

}  // namespace

std::vector<std::string> verify_trace(const std::filesystem::path& file) {
  Problems problems;
  files::note(problems, [&] {
    problems = files::hdf5_run([&] { return problems_of(files::Hdf5File::open(file)); });
  });
  return problems;
}

}  // namespace moesaic::record
