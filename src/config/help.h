#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace moesaic::config {

/// One job of the binary, as the user sees it.
struct Job {
  std::string name, usage;
  bool takes_paths;
  std::string what, example;
};
const std::vector<Job>& jobs();
const Job* find_job(std::string_view name);  // nullptr if unknown

/// What `moesaic --help` prints (job empty or unknown), or `moesaic JOB --help`.
std::string help_text(const std::string& job);

/// The text of configs/README.md.
std::string keys_markdown();

}  // namespace moesaic::config
