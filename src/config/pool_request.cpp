#include "config/pool_request.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/text.h"
#include "config/enum_names.h"
#include "config/options.h"
#include "config/value.h"

namespace moesaic::config {
namespace {

PoolAction parse_action(const std::string& text) {
  std::vector<std::string> names;
  for (const auto& [action, name] : names_of(PoolAction{})) {
    if (name == text) {
      return action;
    }
    names.emplace_back(name);
  }
  throw Error(Exit::kUsage,
              fmt::format("\"{}\" is no change of experts; there are {}", text, join(names, ", ")));
}

std::vector<std::int32_t> parse_experts(const std::vector<std::string>& items) {
  constexpr std::int64_t kMost = 1000000;
  std::vector<std::int32_t> numbers;
  for (const std::string& item : items) {
    const std::int64_t number = parse_integer(item);
    if (number < 0 || number > kMost) {
      throw Error(Exit::kUsage, fmt::format("experts.source: {} is no expert's number", number));
    }
    numbers.push_back(static_cast<std::int32_t>(number));
  }
  std::vector<std::int32_t> sorted = numbers;
  std::sort(sorted.begin(), sorted.end());
  if (std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end()) {
    throw Error(Exit::kUsage, "experts.source names an expert twice");
  }
  return numbers;
}

}  // namespace

PoolRequest pool_request(const std::string& action, const ExpertsJob& keys) {
  PoolRequest request{.action = parse_action(action), .count = keys.count, .experts = {}};
  const bool busiest = keys.source == std::vector<std::string>{"busiest"};
  if (busiest && (request.action == PoolAction::kClone || request.action == PoolAction::kPromote)) {
    return request;
  }
  request.experts = parse_experts(keys.source);
  if (request.action == PoolAction::kAdd && !request.experts.empty()) {
    throw Error(Exit::kUsage, "experts.source: add makes fresh experts; clone copies");
  }
  if (request.action == PoolAction::kClone && request.experts.size() > 1) {
    throw Error(Exit::kUsage, fmt::format("experts.source: clone copies one expert, not {}",
                                          request.experts.size()));
  }
  return request;
}

std::string text_of(const PoolRequest& request) {
  const bool counted = request.experts.empty() || request.action == PoolAction::kClone;
  return name_of(request.action) +
         (counted ? fmt::format(" --experts.count {}", request.count) : "") +
         (request.experts.empty()
              ? ""
              : fmt::format(" --experts.source {}", join(request.experts, ",")));
}

std::vector<PoolRequest> read_requests(const std::string& text, const std::string& file) {
  std::vector<PoolRequest> requests;
  int number = 0;
  for (const std::string& line : split(text, '\n')) {
    ++number;
    std::vector<const char*> arguments{"moesaic", "experts"};
    std::vector<std::string> words = split(std::string(trim(line)), ' ');
    std::erase(words, "");
    if (words.empty() || words.front().starts_with('#')) {
      continue;
    }
    for (const std::string& word : words) {
      arguments.push_back(word.c_str());
    }
    try {
      const Parsed parsed = parse(static_cast<int>(arguments.size()), arguments.data());
      for (const auto& [key, location] : parsed.locations) {
        if (!key.starts_with("experts.")) {
          throw Error(Exit::kUsage, key + " cannot be changed here");
        }
      }
      if (parsed.help || parsed.version || parsed.arguments.size() != 1) {
        throw Error(Exit::kUsage, "a line is ACTION [--experts.count N] [--experts.source N,...]");
      }
      requests.push_back(pool_request(parsed.arguments.front(), parsed.config.experts));
    } catch (const Error& error) {
      throw Error(Exit::kUsage, fmt::format("{}:{}: {}", file, number, error.what()));
    }
  }
  if (requests.empty()) {
    throw Error(Exit::kUsage, file + ": asks for nothing");
  }
  return requests;
}

}  // namespace moesaic::config
