#include "config/value.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/text.h"

namespace moesaic::config {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

template <class T>
std::optional<T> whole(std::string_view text) {
  T value{};
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (text.empty() || error != std::errc{} || stop != end) {
    return std::nullopt;
  }
  return value;
}

std::optional<double> finite(std::string_view text) {
  const std::optional<double> value = whole<double>(text);
  return value && std::isfinite(*value) ? value : std::nullopt;
}

using Unit = std::pair<std::string_view, double>;

/// Number and unit, with or without a space between; nothing if it is not that.
template <std::size_t N>
std::optional<double> with_unit(std::string_view text, const std::array<Unit, N>& units) {
  for (const auto& [name, factor] : units) {
    if (text.ends_with(name)) {
      const std::string_view number = trim(text.substr(0, text.size() - name.size()));
      if (const std::optional<double> value = finite(number)) {
        return *value * factor;
      }
    }
  }
  return std::nullopt;
}

Error bad(std::string_view text, std::string_view expected) {
  if (text.empty()) {
    return {Exit::kUsage, fmt::format("the value is missing: write {}", expected)};
  }
  return {Exit::kUsage, fmt::format("\"{}\" is not {}", text, expected)};
}

/// Seconds of H:MM:SS or M:SS; nothing if it is not that.
std::optional<double> clock_time(std::string_view text) {
  const std::vector<std::string> parts = split(text, ':');
  if (parts.size() < 2 || parts.size() > 3) {
    return std::nullopt;
  }
  double seconds = 0.0;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const std::optional<std::uint32_t> part = whole<std::uint32_t>(parts[i]);
    if (!part || (i > 0 && *part >= 60)) {
      return std::nullopt;
    }
    seconds = seconds * 60.0 + *part;
  }
  return seconds;
}

}  // namespace

std::int64_t parse_integer(std::string_view text) {
  if (const std::optional<std::int64_t> value = whole<std::int64_t>(text)) {
    return *value;
  }
  constexpr double kKi = 1024.0;
  const std::array<Unit, 5> units = {{{"Ki", kKi},
                                      {"Mi", kKi * kKi},
                                      {"Gi", kKi * kKi * kKi},
                                      {"Ti", kKi * kKi * kKi * kKi},
                                      {"", 1.0}}};
  const std::optional<double> value = with_unit(text, units);
  // 2^53: up to here every integer has an exact double.
  if (!value || *value != std::floor(*value) || std::abs(*value) > 9007199254740992.0) {
    throw bad(text, "an integer such as 5000, 4e9 or 64Ki");
  }
  return static_cast<std::int64_t>(*value);
}

double parse_number(std::string_view text) {
  if (const std::optional<double> value = finite(text)) {
    return *value;
  }
  throw bad(text, "a number such as 0.1 or 3e-4");
}

double parse_duration(std::string_view text) {
  const std::array<Unit, 5> units = {
      {{"min", 60.0}, {"s", 1.0}, {"h", 3600.0}, {"d", 86400.0}, {"", 1.0}}};
  if (const std::optional<double> seconds = with_unit(text, units)) {
    return *seconds;
  }
  if (const std::optional<double> seconds = clock_time(text)) {
    return *seconds;
  }
  throw bad(text, "a duration such as 90 s, 20 min, 1.5 h or 3:55:00");
}

double parse_bytes(std::string_view text) {
  constexpr double kKi = 1024.0;
  const std::array<Unit, 10> units = {{{"KiB", kKi},
                                       {"MiB", kKi * kKi},
                                       {"GiB", kKi * kKi * kKi},
                                       {"TiB", kKi * kKi * kKi * kKi},
                                       {"kB", 1e3},
                                       {"MB", 1e6},
                                       {"GB", 1e9},
                                       {"TB", 1e12},
                                       {"B", 1.0},
                                       {"", 1.0}}};
  if (const std::optional<double> bytes = with_unit(text, units)) {
    return std::round(*bytes);
  }
  throw bad(text, "a size such as 16GiB, 500 MB or a number of bytes");
}

bool parse_boolean(std::string_view text) {
  if (text == "1" || text == "true") {
    return true;
  }
  if (text == "0" || text == "false") {
    return false;
  }
  throw bad(text, "one of 0, 1, false, true");
}

NamedWeight parse_weight(std::string_view text) {
  const std::size_t colon = text.rfind(':');
  const std::string_view name = trim(text.substr(0, colon));
  const auto value =
      colon == std::string_view::npos ? std::nullopt : finite(trim(text.substr(colon + 1)));
  if (name.empty() || !value) {
    throw bad(text, "a name and its weight such as code:2");
  }
  return {std::string(name), *value};
}

SampleRange parse_samples(std::string_view text) {
  const std::size_t colon = text.find(':');
  if (colon == std::string_view::npos) {
    throw bad(text, "a range FIRST:END such as 4000:4512");
  }
  const SampleRange range{parse_integer(trim(text.substr(0, colon))),
                          parse_integer(trim(text.substr(colon + 1)))};
  if (range.first < 0 || range.end <= range.first) {
    throw Error(Exit::kUsage,
                fmt::format("\"{}\" is an empty range: write FIRST:END with 0 <= FIRST < END; END "
                            "itself is drawn",
                            text));
  }
  return range;
}

std::optional<std::int64_t> last_blocks(std::string_view pattern) {
  constexpr std::string_view kLast = "last:";
  if (!pattern.starts_with(kLast)) {
    return std::nullopt;
  }
  return whole<std::int64_t>(pattern.substr(kLast.size())).value_or(0);
}

StepRange parse_steps(std::string_view text) {
  constexpr std::string_view kEvery = "every:";
  constexpr std::int64_t kNoEnd = std::numeric_limits<std::int64_t>::max();
  if (text == "all") {
    return {1, kNoEnd, 1};
  }
  StepRange steps;
  const std::size_t dash = text.find('-');
  if (text.starts_with(kEvery)) {
    steps.every = parse_integer(trim(text.substr(kEvery.size())));
    steps.first = steps.every;
    steps.last = kNoEnd;
  } else if (const auto step = whole<std::int64_t>(text)) {
    steps.first = steps.last = *step;
  } else if (dash != std::string_view::npos && dash > 0) {
    steps.first = parse_integer(trim(text.substr(0, dash)));
    steps.last = parse_integer(trim(text.substr(dash + 1)));
  } else {
    throw bad(text, "a step or steps such as 500, 1-12, every:500 or all");
  }
  if (steps.first < 1 || steps.last < steps.first) {
    throw Error(Exit::kUsage, fmt::format("\"{}\" names no step: steps count from 1, and a range "
                                          "FIRST-LAST holds both of its ends",
                                          text));
  }
  return steps;
}

std::string format_number(double value) { return fmt::format("{}", value); }

std::string format_duration(double seconds) { return fmt::format("{} s", seconds); }

std::string format_bytes(double bytes) {
  constexpr double kKi = 1024.0;
  for (const auto& [name, unit] :
       {std::pair("GiB", kKi * kKi * kKi), std::pair("MiB", kKi * kKi)}) {
    if (bytes > 0.0 && std::fmod(bytes, unit) == 0.0) {
      return fmt::format("{:.0f}{}", bytes / unit, name);
    }
  }
  return fmt::format("{:.0f}", bytes);
}

std::string format_weight(const NamedWeight& weight) {
  return fmt::format("{}:{}", weight.first, weight.second);
}

std::string format_samples(const SampleRange& range) {
  return fmt::format("{}:{}", range.first, range.end);
}

std::string format_steps(const StepRange& steps) {
  if (steps.last == std::numeric_limits<std::int64_t>::max()) {
    return steps.every == 1 ? "all" : fmt::format("every:{}", steps.every);
  }
  return steps.first == steps.last ? fmt::format("{}", steps.first)
                                   : fmt::format("{}-{}", steps.first, steps.last);
}

std::string Range::text() const {
  if (high == kInfinity) {
    return low == -kInfinity
               ? "any"
               : (low_open ? fmt::format("above {}", low) : fmt::format("{} or more", low));
  }
  return fmt::format("{}{} to {}{}", low_open ? "above " : "", low, high_open ? "below " : "",
                     high);
}

void Range::check(double value, std::string_view text) const {
  const bool too_low = value < low || (low_open && value == low);
  const bool too_high = value > high || (high_open && value == high);
  if (!too_low && !too_high) {
    return;
  }
  std::string message = fmt::format("{} is out of range, which is {}", text, this->text());
  if (too_low ? !low_open : !high_open) {
    message += fmt::format("; the nearest is {}", too_low ? low : high);
  }
  throw Error(Exit::kUsage, message);
}

Range at_least(double low) { return {low, kInfinity}; }
Range above(double low) { return {low, kInfinity, true}; }
Range between(double low, double high) { return {low, high}; }
Range from_to_below(double low, double high) { return {low, high, false, true}; }

}  // namespace moesaic::config
