#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>

#include "base/error.h"
#include "files/hdf5/thread.h"
#include "files/problems.h"
#include "record/routing_schema.h"

namespace moesaic::record {
namespace {

struct Record {
  const files::Hdf5File& file;
  std::vector<std::int64_t> steps, offsets;
  std::int64_t layers, choices, experts;
};

/// Whether the arrays have the rows that the offsets name. Rows behind the last step may be there:
/// a step that was being written.
void check_extents(const Record& record, files::Problems& problems) {
  if (record.offsets.size() != record.steps.size() + 1 || record.offsets.front() != 0) {
    problems.push_back(
        fmt::format("/steps/offset: {} entries, from {}, for {} steps", record.offsets.size(),
                    record.offsets.empty() ? 0 : record.offsets.front(), record.steps.size()));
    return;
  }
  for (std::size_t i = 0; i < record.steps.size(); ++i) {
    if (record.offsets[i + 1] <= record.offsets[i]) {
      problems.push_back(fmt::format("/steps/offset: step {} goes from row {} to {}",
                                     record.steps[i], record.offsets[i], record.offsets[i + 1]));
    }
    if (record.steps[i] < 1 || (i > 0 && record.steps[i] <= record.steps[i - 1])) {
      problems.push_back(fmt::format("/steps/step: {} follows {}", record.steps[i],
                                     i > 0 ? record.steps[i - 1] : 0));
    }
  }
  for (const RoutingColumn& column : kRoutingColumns) {
    const files::Extents extents = record.file.extents(column.name);
    const files::Extents due = column.by_layer
                                   ? files::Extents{extents[0], record.layers, record.choices}
                                   : files::Extents{extents[0]};
    if (extents != due || extents[0] < record.offsets.back()) {
      problems.push_back(
          fmt::format("{}: {} rows for steps with {} rows, or other dims than its axes",
                      column.name, extents[0], record.offsets.back()));
    }
  }
}

/// Why the choices of one token cannot be; empty: they can.
struct Choices {
  std::span<const std::int16_t> chosen, target;
  std::span<const std::uint8_t> fate;
  std::int64_t experts;

  std::string wrong(std::size_t k) const {
    const int expert = chosen[k];
    const int by = target[k];
    if (expert < -1 || expert >= experts || by < -1 || by >= experts || fate[k] > 3) {
      return fmt::format("expert {}, target {}, fate {} are not in range", expert, by, fate[k]);
    }
    if (expert < 0) {
      return by < 0 && fate[k] == 0 && k > 0 ? "" : "no choice, but a target or a fate";
    }
    const bool rerouted = fate[k] == 1 || fate[k] == 2;
    if (fate[k] == 0 ? by != expert : rerouted ? by < 0 || by == expert : by >= 0) {
      return fmt::format("expert {} with fate {} has target {}", expert, fate[k], by);
    }
    for (std::size_t other = 0; other < k; ++other) {
      if (chosen[other] < 0 || chosen[other] == expert || (by >= 0 && target[other] == by)) {
        return fmt::format("expert {} follows {}, computed by {} and {}", expert, chosen[other], by,
                           target[other]);
      }
    }
    return "";
  }
};

// One line for the first token of a step and layer that is wrong.
void check_routed(const Record& record, std::size_t step, std::int64_t layer,
                  files::Problems& problems) {
  const std::int64_t first = record.offsets[step];
  const std::int64_t rows = record.offsets[step + 1] - first;
  const auto k = static_cast<std::size_t>(record.choices);
  const auto read = [&]<class T>(RoutingColumnIndex column, T) {
    std::vector<T> values(static_cast<std::size_t>(rows) * k);
    record.file.read<T>(kRoutingColumns[column].name, {first, layer, 0}, {rows, 1, record.choices},
                        std::span(values));
    return values;
  };
  const auto chosen = read(kChosen, std::int16_t{});
  const auto target = read(kTarget, std::int16_t{});
  const auto fate = read(kFate, std::uint8_t{});
  for (std::size_t row = 0; row < static_cast<std::size_t>(rows); ++row) {
    const Choices token{std::span(chosen).subspan(row * k, k),
                        std::span(target).subspan(row * k, k), std::span(fate).subspan(row * k, k),
                        record.experts};
    for (std::size_t choice = 0; choice < k; ++choice) {
      if (const std::string wrong = token.wrong(choice); !wrong.empty()) {
        problems.push_back(fmt::format("step {} layer {} token {}: choice {}: {}",
                                       record.steps[step], layer, row, choice + 1, wrong));
        return;
      }
    }
  }
}

void check_tokens(const Record& record, std::size_t step, files::Problems& problems) {
  const std::int64_t first = record.offsets[step];
  const std::int64_t rows = record.offsets[step + 1] - first;
  constexpr auto kNoEnd = std::numeric_limits<std::int64_t>::max();
  const std::pair<RoutingColumnIndex, std::int64_t> ends[] = {
      {kCorpus, record.file.extents("/corpus").at(0)},
      {kTask, record.file.extents("/task").at(0)},
      {kDocument, kNoEnd},
      {kPosition, kNoEnd},
      {kToken, kNoEnd}};
  for (const auto& [column, end] : ends) {
    std::vector<std::int64_t> values(static_cast<std::size_t>(rows));
    record.file.read<std::int64_t>(kRoutingColumns[column].name, {first}, {rows},
                                   std::span(values));
    const auto [low, high] = std::minmax_element(values.begin(), values.end());
    if (*low < 0 || *high >= end) {
      problems.push_back(fmt::format("step {}: {} goes from {} to {}, not within 0 .. {}",
                                     record.steps[step], kRoutingColumns[column].name, *low, *high,
                                     end - 1));
    }
  }
}

files::Problems problems_of(const files::Hdf5File& file) {
  files::Problems problems;
  files::check_format(file, kRoutingSchema, kRoutingVersion);
  const RoutingSteps whole = read_routing_steps(file);
  const Record record{file,
                      whole.step,
                      whole.offset,
                      file.extents("/layer").at(0),
                      file.extents("/choice").at(0),
                      file.int_attribute("/", "experts")};
  check_extents(record, problems);
  for (std::size_t step = 0; problems.empty() && step < record.steps.size(); ++step) {
    check_tokens(record, step, problems);
    for (std::int64_t layer = 0; layer < record.layers; ++layer) {
      check_routed(record, step, layer, problems);
    }
  }
  return problems;
}

}  // namespace

std::vector<std::string> verify_routing(const std::filesystem::path& file) {
  files::Problems problems;
  files::note(problems, [&] {
    problems = files::hdf5_run([&] { return problems_of(files::Hdf5File::open(file)); });
  });
  return problems;
}

}  // namespace moesaic::record
