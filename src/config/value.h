#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "config/config.h"

namespace moesaic::config {

// The texts of values. Every parse function throws Error(kUsage) that says what it expected; the
// caller adds key and location. Every format function writes what the parse function reads back.

std::int64_t parse_integer(std::string_view text);  // 5000, 4e9, 64Ki
double parse_number(std::string_view text);
double parse_duration(std::string_view text);      // seconds, from 90, 90 s, 20 min, 3:55:00
double parse_bytes(std::string_view text);         // 16GiB, 500 MB, 1e9
bool parse_boolean(std::string_view text);         // 0, 1, false, true
NamedWeight parse_weight(std::string_view text);   // code:2, the last colon divides
SampleRange parse_samples(std::string_view text);  // 4000:4512, not empty

/// N of "last:N"; 0: there is no number; nothing: it is another pattern of parameters.
std::optional<std::int64_t> last_blocks(std::string_view pattern);
StepRange parse_steps(std::string_view text);  // 500, 1-12, every:500 or all

std::string format_number(double value);
std::string format_duration(double seconds);
std::string format_bytes(double bytes);
std::string format_weight(const NamedWeight& weight);
std::string format_samples(const SampleRange& range);
std::string format_steps(const StepRange& steps);

/// The items of a value: separated by commas, without their quotes, `${NAME}` and a leading `~`
/// expanded. Nothing is expanded inside '...'; "..." may hold the escapes of
/// n, t, r, ", ', $ and the backslash. Space
/// around an item without quotes is dropped, but what may be meant (white space alone, a line
/// break) is refused.
std::vector<std::string> parse_items(std::string_view text);
/// The item as parse_items reads it back, quoted only where needed.
std::string quote_item(const std::string& item);

/// Bounds of a number.
struct Range {
  double low, high;
  bool low_open = false, high_open = false;
  std::string text() const;  // "1 or more"
  /// Throws kUsage, naming the nearest valid value.
  void check(double value, std::string_view text) const;
};
Range at_least(double low);
Range above(double low);
Range between(double low, double high);  // both included
Range from_to_below(double low, double high);

}  // namespace moesaic::config
