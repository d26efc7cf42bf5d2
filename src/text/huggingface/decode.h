#pragma once

#include <string>
#include <vector>

namespace moesaic::text {

/// One step from the strings of tokens to text.
struct DecodeStep {
  enum class Kind { kByteLevel, kByteFallback, kFuse, kReplace, kStrip, kMetaspace };
  Kind kind = Kind::kFuse;
  std::string find;                 // kReplace, kStrip and kMetaspace: what to look for
  std::string replacement;          // kReplace: what to put there
  std::size_t left = 0, right = 0;  // kStrip: at most so many of `find` at either end
  bool drops_first = false;         // kMetaspace: a mark of the first token is no space
};

/// Applies the steps, each to all tokens. Bytes that are not UTF-8 stay as they are.
std::string decoded(std::vector<std::string> tokens, const std::vector<DecodeStep>& steps);

}  // namespace moesaic::text
