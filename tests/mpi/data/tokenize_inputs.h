#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/error.h"
#include "config/config.h"
#include "support/shared_dir.h"

// What the tests of the job `tokenize` have in common: input files, configs, and how a job fails.
namespace moesaic::data {

namespace fs = std::filesystem;

class Inputs : public testing::SharedDir {
 public:
  std::string operator/(const std::string& name) const { return (path / name).string(); }
  // Files are written by rank 0 before anyone goes on.
  void write(const std::map<std::string, std::string>& files) const {
    if (world.is_root()) {
      for (const auto& [name, text] : files) {
        fs::create_directories((path / name).parent_path());
        testing::write_file(path / name, text);
      }
    }
    world.barrier();
  }
};

inline config::Config config_for(const Inputs& dir, const std::string& input,
                                 const std::string& output) {
  config::Config config;
  config.tokenize.input = {dir / input};
  config.tokenize.output = dir / output;
  return config;
}

inline std::map<std::string, std::string> files_below(const fs::path& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file()) {
      files[entry.path().lexically_relative(folder).string()] = testing::read_file(entry.path());
    }
  }
  return files;
}

inline void expect_failure(const std::function<void()>& work, Exit code,
                           const std::vector<std::string>& words_of_it) {
  try {
    work();
    ADD_FAILURE() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(static_cast<int>(error.code()), static_cast<int>(code)) << error.what();
    for (const std::string& word : words_of_it) {
      EXPECT_NE(std::string(error.what()).find(word), std::string::npos)
          << "no '" << word << "' in: " << error.what();
    }
  }
}

}  // namespace moesaic::data
