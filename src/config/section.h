#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/text.h"
#include "config/enum_names.h"
#include "config/keys.h"
#include "config/value.h"

namespace moesaic::config {

/// Makes the keys of one section, one function for each type of field.
template <class Part>
class Section {
 public:
  Section(std::string name, Part Config::*part, const std::string& jobs)
      : name_(std::move(name)), part_(part), jobs_(split(jobs, ' ')) {}

  Key integer(const char* name, std::int64_t Part::*field, const Range& range,
              const char* unit, const char* help) const {
    const auto parse = [range](const std::string& text) {
      const std::int64_t value = parse_integer(text);
      range.check(static_cast<double>(value), text);
      return value;
    };
    return scalar(name, field, {"integer", unit, range.text(), help}, parse,
                  [](std::int64_t value) { return std::to_string(value); });
  }

  Key number(const char* name, double Part::*field, const Range& range,
             const char* unit, const char* help) const {
    return scalar(name, field, {"number", unit, range.text(), help}, checked(range, parse_number),
                  format_number);
  }

  Key duration(const char* name, double Part::*field, const char* help) const {
    const Range range = at_least(0);
    return scalar(name, field, {"duration", "s", range.text(), help},
                  checked(range, parse_duration), format_duration);
  }

  /// A duration whose negative values stand for `auto`.
  Key auto_duration(const char* name, double Part::*field, const char* help) const {
    const Range range = at_least(0);
    const auto parse = [read = checked(range, parse_duration)](const std::string& text) {
      return text == "auto" ? -1.0 : read(text);
    };
    return scalar(name, field, {"duration", "s", "auto, or " + range.text(), help}, parse,
                  [](double value) { return value < 0.0 ? "auto" : format_duration(value); });
  }

  Key bytes(const char* name, double Part::*field, const char* help) const {
    const Range range = at_least(0);
    return scalar(name, field, {"size", "bytes", range.text(), help}, checked(range, parse_bytes),
                  format_bytes);
  }

  Key boolean(const char* name, bool Part::*field, const char* help) const {
    return scalar(name, field, {"boolean", "", "0, 1, false, true", help}, parse_boolean,
                  [](bool value) { return std::string(value ? "1" : "0"); });
  }

  template <class Enum>
  Key choice(const char* name, Enum Part::*field, const char* help) const {
    std::vector<std::string> names;
    for (const auto& [value, text] : names_of(Enum{})) {
      names.emplace_back(text);
    }
    return scalar(name, field, {join(names, "|"), "", "", help}, parse_choice<Enum>, name_of<Enum>);
  }

  Key text(const char* name, std::string Part::*field, const char* type,
           const char* help) const {
    Key key = base(name, {type, "", "", help});
    key.get = [part = part_, field](const Config& config) -> std::vector<std::string> {
      return {config.*part.*field};
    };
    key.set = [part = part_, field](Config& config, const std::vector<std::string>& items) {
      config.*part.*field = items.empty() ? std::string() : items.front();
    };
    return key;
  }

  Key texts(const char* name, std::vector<std::string> Part::*field, const char* type,
            const char* help) const {
    Key key = base(name, {type, "", "", help});
    key.list = true;
    key.get = [part = part_, field](const Config& config) { return config.*part.*field; };
    key.set = [part = part_, field](Config& config, const std::vector<std::string>& items) {
      config.*part.*field = items;
    };
    return key;
  }

  Key integers(const char* name, std::vector<std::int64_t> Part::*field, const Range& range,
               const char* help) const {
    const auto parse = [range](const std::string& text) {
      const std::int64_t value = parse_integer(text);
      range.check(static_cast<double>(value), text);
      return value;
    };
    return list(name, field, {"list of integers", "", range.text(), help}, parse,
                [](std::int64_t value) { return std::to_string(value); });
  }

  Key numbers(const char* name, std::vector<double> Part::*field, const Range& range,
              const char* help) const {
    return list(name, field, {"list of numbers", "", range.text(), help},
                checked(range, parse_number), format_number);
  }

  Key weights(const char* name, std::vector<NamedWeight> Part::*field,
              const char* help) const {
    const Range range = at_least(0);
    const auto parse = [range](const std::string& text) {
      NamedWeight weight = parse_weight(text);
      range.check(weight.second, text);
      return weight;
    };
    return list(name, field, {"list of NAME:WEIGHT", "", range.text(), help}, parse, format_weight);
  }

  Key samples(const char* name, std::vector<SampleRange> Part::*field,
              const char* help) const {
    return list(name, field, {"list of FIRST:END", "", "", help}, parse_samples, format_samples);
  }

  Key steps(const char* name, std::vector<StepRange> Part::*field,
            const char* help) const {
    return list(name, field, {"list of N, FIRST-LAST, every:N or all", "", "", help}, parse_steps,
                format_steps);
  }

 private:
  struct Facts {
    std::string type, unit, range, help;
  };

  Key base(const char* name, const Facts& facts) const {
    Key key;
    key.name = name_ + "." + name;
    key.type = facts.type;
    key.unit = facts.unit;
    key.range = facts.range;
    key.help = facts.help;
    key.jobs = jobs_;
    return key;
  }

  template <class T, class Parse, class Format>
  Key scalar(const char* name, T Part::*field, const Facts& facts, Parse parse,
             Format format) const {
    Key key = base(name, facts);
    key.get = [part = part_, field, format](const Config& config) -> std::vector<std::string> {
      return {format(config.*part.*field)};
    };
    key.set = [part = part_, field, parse](Config& config, const std::vector<std::string>& items) {
      config.*part.*field = parse(items.empty() ? std::string() : items.front());
    };
    return key;
  }

  template <class T, class Parse, class Format>
  Key list(const char* name, std::vector<T> Part::*field, const Facts& facts, Parse parse,
           Format format) const {
    Key key = base(name, facts);
    key.list = true;
    key.get = [part = part_, field, format](const Config& config) {
      const std::vector<T>& values = config.*part.*field;
      std::vector<std::string> items(values.size());
      std::transform(values.begin(), values.end(), items.begin(), format);
      return items;
    };
    key.set = [part = part_, field, parse](Config& config, const std::vector<std::string>& items) {
      std::vector<T> values(items.size());
      std::transform(items.begin(), items.end(), values.begin(), parse);
      config.*part.*field = values;
    };
    return key;
  }

  template <class Parse>
  static auto checked(const Range& range, Parse parse) {
    return [range, parse](const std::string& text) {
      const double value = parse(text);
      range.check(value, text);
      return value;
    };
  }

  template <class Enum>
  static Enum parse_choice(const std::string& text) {
    std::vector<std::string> names;
    const std::string word = text == "true" ? "1" : (text == "false" ? "0" : text);
    for (const auto& [value, name] : names_of(Enum{})) {
      if (name == word) {
        return value;
      }
      names.emplace_back(name);
    }
    const std::string near = nearest(text, names);
    throw Error(Exit::kUsage, "\"" + text + "\" is not one of " + join(names, ", ") +
                                  (near.empty() ? "" : "; did you mean " + near + "?"));
  }

  std::string name_;
  Part Config::*part_;
  std::vector<std::string> jobs_;
};

/// The key, read by these jobs rather than by those of its section.
inline Key only(Key key, const char* jobs) {
  key.jobs = split(jobs, ' ');
  return key;
}

}  // namespace moesaic::config
