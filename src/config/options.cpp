#include "config/options.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/program_options.hpp>

#include "base/error.h"
#include "base/text.h"
#include "config/help.h"
#include "config/ini.h"
#include "config/keys.h"
#include "config/validate.h"
#include "config/value.h"

namespace po = boost::program_options;

namespace moesaic::config {
namespace {

using Problems = std::vector<std::string>;

/// What the command line says, before any value is read.
struct CommandLine {
  std::vector<std::string> positional, files;
  std::vector<Setting> settings;
  bool help = false, version = false;
};

po::options_description known_options() {
  po::options_description options;
  options.add_options()("help", "")("version", "")("config", po::value<std::vector<std::string>>());
  for (const Key& key : keys()) {
    options.add_options()(key.name.c_str(), po::value<std::vector<std::string>>());
  }
  return options;
}

std::vector<po::option> run_parser(std::vector<std::string> tokens, Problems& problems) {
  namespace style = po::command_line_style;
  const po::options_description known = known_options();
  while (true) {
    try {
      return po::command_line_parser(tokens)
          .options(known)
          .style(style::allow_long | style::long_allow_adjacent | style::long_allow_next)
          .allow_unregistered()
          .run()
          .options;
    } catch (const po::error_with_option_name& error) {
      // It stops at the first option without a value: take that out, to see all problems at once.
      const std::string name = error.get_option_name();
      const auto faulty = std::find_if(tokens.rbegin(), tokens.rend(), [&](const auto& token) {
        return token == name || token.starts_with(name + "=");
      });
      problems.push_back(fmt::format("command line: {}", error.what()));
      if (faulty == tokens.rend()) {
        return {};
      }
      tokens.erase(std::next(faulty).base());
    }
  }
}

CommandLine read_command_line(const std::vector<std::string>& tokens, Problems& problems) {
  CommandLine line;
  bool after_unknown = false;
  for (const po::option& option : run_parser(tokens, problems)) {
    const std::string value = option.value.empty() ? std::string() : option.value.front();
    const bool swallowed = after_unknown && option.position_key >= 0;
    after_unknown = false;
    if (swallowed) {
      continue;  // the value of an unknown option
    }
    if (option.position_key >= 0) {
      line.positional.push_back(value);
    } else if (option.unregistered) {
      after_unknown = option.original_tokens.front().find('=') == std::string::npos;
      line.settings.push_back({option.string_key, value, "command line"});
    } else if (option.string_key == "help") {
      line.help = true;
    } else if (option.string_key == "version") {
      line.version = true;
    } else if (option.string_key == "config") {
      line.files.push_back(value);
    } else {
      line.settings.push_back({option.string_key, value, "command line"});
    }
  }
  return line;
}

/// The settings of one source; a list is joined from all of its lines.
class Source {
 public:
  Source(bool is_file, Parsed& parsed, Problems& problems)
      : is_file_(is_file), parsed_(parsed), problems_(problems) {}

  void apply(const std::vector<Setting>& settings) {
    for (const Setting& setting : settings) {
      if (const Key* const key = find_key(setting.key)) {
        try {
          apply_known(*key, setting);
        } catch (const Error& error) {
          problems_.push_back(fmt::format("{}: {}: {}", setting.location, key->name, error.what()));
        }
      } else {
        problems_.push_back(fmt::format("{}: {}: unknown key{}", setting.location, setting.key,
                                        suggestion(setting.key)));
      }
    }
  }

 private:
  void apply_known(const Key& key, const Setting& setting) {
    const auto first = first_.find(key.name);
    std::vector<std::string> items = parse_items(setting.value);
    if (key.list && first != first_.end()) {
      std::vector<std::string> all = key.get(parsed_.config);
      all.insert(all.end(), items.begin(), items.end());
      items = all;
    } else if (is_file_ && first != first_.end()) {
      throw Error(Exit::kUsage, fmt::format("is already set at {}", first->second));
    }
    if (!key.list && items.size() > 1) {
      throw Error(Exit::kUsage, fmt::format("one value is expected, not {}; quote a value that "
                                            "has commas",
                                            items.size()));
    }
    first_.emplace(key.name, setting.location);
    parsed_.locations[key.name] = setting.location;
    key.set(parsed_.config, items);
  }

  bool is_file_;
  Parsed& parsed_;
  Problems& problems_;
  std::map<std::string, std::string> first_;  // key -> location in this source
};

void check_job(const Parsed& parsed, Problems& problems) {
  std::vector<std::string> names;
  for (const Job& job : jobs()) {
    names.push_back(job.name);
  }
  const Job* const job = find_job(parsed.job);
  if (parsed.job.empty()) {
    problems.push_back(fmt::format("no job is named; the jobs are {}", join(names, ", ")));
  } else if (job == nullptr) {
    const std::string near = nearest(parsed.job, names);
    problems.push_back(fmt::format("unknown job \"{}\"{}; the jobs are {}", parsed.job,
                                   near.empty() ? "" : ", did you mean " + near + "?",
                                   join(names, ", ")));
  } else if (job->takes_paths && parsed.arguments.empty()) {
    problems.push_back(fmt::format("{} needs at least one path: {}", job->name, job->usage));
  } else if (!job->takes_paths) {
    for (const std::string& argument : parsed.arguments) {
      problems.push_back(
          fmt::format("command line: {} takes no argument \"{}\"; options are --section.key VALUE",
                      job->name, argument));
    }
  }
}

void throw_all(const Problems& problems, const std::string& remedy) {
  if (!problems.empty()) {
    throw Error(Exit::kUsage, join(problems, "\n") + "\n" + remedy);
  }
}

}  // namespace

Parsed parse(int argc, const char* const* argv) {
  Problems problems;
  const CommandLine line =
      read_command_line(std::vector<std::string>(argv + std::min(argc, 1), argv + argc), problems);
  Parsed parsed;
  parsed.help = line.help;
  parsed.version = line.version;
  if (!line.positional.empty()) {
    parsed.job = line.positional.front();
    parsed.arguments.assign(line.positional.begin() + 1, line.positional.end());
  }
  const bool explain = parsed.help && (parsed.job.empty() || find_job(parsed.job) != nullptr);
  if (explain || parsed.version) {
    return parsed;
  }
  check_job(parsed, problems);
  for (const std::string& file : line.files) {
    Source(true, parsed, problems).apply(read_ini(file, problems));
  }
  Source(false, parsed, problems).apply(line.settings);
  throw_all(problems, find_job(parsed.job) == nullptr
                          ? "moesaic --help explains the jobs"
                          : fmt::format("moesaic {} --help lists every key", parsed.job));
  return parsed;
}

Config checked(const Parsed& parsed, int ranks) {
  Config config = parsed.config;
  resolve(config, parsed.job);
  Problems found = problems(config, parsed.job, ranks);
  for (std::string& problem : found) {
    const auto location = parsed.locations.find(problem.substr(0, problem.find_first_of(" :")));
    if (location != parsed.locations.end()) {
      problem.insert(0, location->second + ": ");
    }
  }
  throw_all(found, fmt::format("moesaic {} --help lists every key", parsed.job));
  return config;
}

}  // namespace moesaic::config
