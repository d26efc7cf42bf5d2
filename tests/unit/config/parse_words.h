#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/error.h"
#include "base/text.h"
#include "config/options.h"
#include "config/validate.h"

// Command lines, and what is said of them.
namespace moesaic::config {

using Strings = std::vector<std::string>;

inline Parsed parse_words(const Strings& words) {
  std::vector<const char*> argv = {"moesaic"};
  for (const std::string& word : words) {
    argv.push_back(word.c_str());
  }
  return parse(static_cast<int>(argv.size()), argv.data());
}

/// The lines of the usage error that the words end in.
inline Strings usage_error(const Strings& words, int ranks = 0) {
  try {
    const Parsed parsed = parse_words(words);
    if (ranks > 0) {
      checked(parsed, ranks);
    }
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::kUsage);
    return split(error.what(), '\n');
  }
  ADD_FAILURE() << "no error";
  return {};
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace moesaic::config
