#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/manifest.h"
#include "files/durable.h"

namespace moesaic::checkpoint {
namespace {

namespace fs = std::filesystem;

/// The step of "step-00001000", or of that followed by `suffix`; nothing for any other name.
std::optional<std::int64_t> step_of(const fs::path& folder, std::string_view suffix) {
  constexpr std::string_view kPrefix = "step-";
  const std::string name = folder.filename().string();
  std::string_view rest = name;
  if (!rest.starts_with(kPrefix) || !rest.ends_with(suffix)) {
    return std::nullopt;
  }
  rest.remove_prefix(kPrefix.size());
  rest.remove_suffix(suffix.size());
  std::int64_t step = 0;
  const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), step);
  if (error != std::errc() || end != rest.data() + rest.size() || step < 0) {
    return std::nullopt;
  }
  return step;
}

using Steps = std::vector<std::pair<std::int64_t, fs::path>>;

/// Folders whose names say a step, in its order.
Steps steps_in(const fs::path& dir, std::string_view suffix) {
  Steps steps;
  if (!files::is_there(dir)) {
    return steps;
  }
  for (const auto& entry : fs::directory_iterator(dir)) {
    const auto step = step_of(entry.path(), suffix);
    if (step && files::is_folder(entry.path())) {
      steps.emplace_back(*step, entry.path());
    }
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

Steps complete_steps(const fs::path& dir) {
  Steps steps = steps_in(dir, "");
  std::erase_if(steps,
                [](const auto& step) { return !files::is_there(step.second / kManifestName); });
  return steps;
}

}  // namespace

std::vector<fs::path> complete_checkpoints(const fs::path& dir) {
  std::vector<fs::path> folders;
  for (auto& [step, folder] : complete_steps(dir)) {
    folders.push_back(std::move(folder));
  }
  return folders;
}

void put_back_replaced(const fs::path& dir) {
  for (const auto& [step, folder] : steps_in(dir, kReplaced)) {
    const fs::path final = checkpoint_folder(dir, step);
    std::error_code error;
    if (!fs::exists(final) && fs::exists(folder / kManifestName)) {
      fs::rename(folder, final, error);
      error ? log::warn(fmt::format("{}: {}", folder.string(), error.message()))
            : log::info(fmt::format("{} is there again: its replacement was not finished",
                                    final.string()));
    }
  }
}

std::vector<fs::path> set_aside_later(const fs::path& dir, std::int64_t step) {
  std::vector<fs::path> others;
  for (const auto& [its_step, folder] : complete_steps(dir)) {
    if (its_step > step) {
      others.push_back(files::set_aside(folder));
    }
  }
  return others;
}

namespace {

void prune(const fs::path& dir, std::int64_t keep, std::int64_t keep_every) {
  const Steps steps = complete_steps(dir);
  const auto kept = static_cast<std::size_t>(std::max<std::int64_t>(1, keep));
  for (std::size_t i = 0; i + kept < steps.size(); ++i) {
    const auto& [step, folder] = steps[i];
    if (keep_every > 0 && step % keep_every == 0) {
      continue;
    }
    // Renamed first: one that is half deleted must not look complete.
    fs::path doomed = folder;
    doomed += kTemporary;
    std::error_code ignored;
    fs::remove_all(doomed, ignored);
    fs::rename(folder, doomed, ignored);
  }
  for (const std::string& ending : {std::string(kTemporary), std::string(kReplaced)}) {
    for (const auto& [step, folder] : steps_in(dir, ending)) {
      std::error_code ignored;
      if (ending == kTemporary || fs::exists(checkpoint_folder(dir, step))) {
        fs::remove_all(folder, ignored);
      }
    }
  }
}

}  // namespace

void prune_checkpoints(const fs::path& dir, std::int64_t keep, std::int64_t keep_every) {
  try {
    prune(dir, keep, keep_every);
  } catch (const std::exception& error) {  // the next save tries again
    log::warn(fmt::format("{}: older checkpoints are not removed: {}", dir.string(), error.what()));
  }
}

}  // namespace moesaic::checkpoint
