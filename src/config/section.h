#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "base/text.h"
#include "config/enum_names.h"
#include "config/keys.h"
#include "config/value.h"

namespace moesaic::config {

/// Where a config holds the value of a key.
template <class T>
using Field = std::function<T&(Config&)>;

/// The texts of a key, without the access to its value.
struct KeyText {
  std::string name;  // "train.lr"
  const char* type;
  const char* unit;  // empty: none
  const char* help;
  std::vector<std::string> jobs;
};

// Keys of one type of field each, in section.cpp.
Key integer_key(const KeyText& text, const Field<std::int64_t>& field, const Range& range);
Key number_key(const KeyText& text, const Field<double>& field, const Range& range);
Key duration_key(const KeyText& text, const Field<double>& field);
Key auto_duration_key(const KeyText& text, const Field<double>& field);
Key bytes_key(const KeyText& text, const Field<double>& field);
Key boolean_key(const KeyText& text, const Field<bool>& field);
Key text_key(const KeyText& text, const Field<std::string>& field);
Key texts_key(const KeyText& text, const Field<std::vector<std::string>>& field);
Key integers_key(const KeyText& text, const Field<std::vector<std::int64_t>>& field,
                 const Range& range);
Key numbers_key(const KeyText& text, const Field<std::vector<double>>& field, const Range& range);
Key weights_key(const KeyText& text, const Field<std::vector<NamedWeight>>& field);
Key samples_key(const KeyText& text, const Field<std::vector<SampleRange>>& field);
Key steps_key(const KeyText& text, const Field<std::vector<StepRange>>& field);
/// get and set: the index of the field's value in names.
Key choice_key(const KeyText& text, const std::vector<std::string>& names,
               const std::function<std::size_t(const Config&)>& get,
               const std::function<void(Config&, std::size_t)>& set);

Key dtype_key(const KeyText& text, const Field<DType>& field, const std::vector<DType>& choices);
Key optional_dtype_key(const KeyText& text, const Field<std::optional<DType>>& field,
                       const char* nothing, const std::vector<DType>& choices);

/// Makes the keys of one section, one function for each type of field.
template <class Part>
class Section {
 public:
  Section(std::string name, Part Config::*part, const std::string& jobs)
      : name_(std::move(name)), part_(part), jobs_(split(jobs, ' ')) {}

  Key integer(const char* name, std::int64_t Part::*field, const Range& range, const char* unit,
              const char* help) const {
    return integer_key(about(name, "integer", unit, help), at(field), range);
  }
  Key number(const char* name, double Part::*field, const Range& range, const char* unit,
             const char* help) const {
    return number_key(about(name, "number", unit, help), at(field), range);
  }
  Key duration(const char* name, double Part::*field, const char* help) const {
    return duration_key(about(name, "duration", "s", help), at(field));
  }
  /// A duration whose negative values stand for `auto`.
  Key auto_duration(const char* name, double Part::*field, const char* help) const {
    return auto_duration_key(about(name, "duration", "s", help), at(field));
  }
  Key bytes(const char* name, double Part::*field, const char* help) const {
    return bytes_key(about(name, "size", "bytes", help), at(field));
  }
  Key boolean(const char* name, bool Part::*field, const char* help) const {
    return boolean_key(about(name, "boolean", "", help), at(field));
  }
  template <class Enum>
  Key choice(const char* name, Enum Part::*field, const char* help) const {
    std::vector<std::string> names;
    for (const auto& [value, text] : names_of(Enum{})) {
      names.emplace_back(text);
    }
    const auto get = [part = part_, field](const Config& config) {
      constexpr auto kNames = names_of(Enum{});
      std::size_t index = 0;
      while (kNames[index].first != config.*part.*field) {
        ++index;
      }
      return index;
    };
    const auto set = [part = part_, field](Config& config, std::size_t index) {
      config.*part.*field = names_of(Enum{})[index].first;
    };
    return choice_key(about(name, "", "", help), names, get, set);
  }
  /// A number format out of some.
  Key dtype(const char* name, DType Part::*field, const std::vector<DType>& choices,
            const char* help) const {
    return dtype_key(about(name, "", "", help), at(field), choices);
  }
  /// nothing: the name of no format.
  Key dtype(const char* name, std::optional<DType> Part::*field, const char* nothing,
            const std::vector<DType>& choices, const char* help) const {
    return optional_dtype_key(about(name, "", "", help), at(field), nothing, choices);
  }
  Key text(const char* name, std::string Part::*field, const char* type, const char* help) const {
    return text_key(about(name, type, "", help), at(field));
  }
  Key texts(const char* name, std::vector<std::string> Part::*field, const char* type,
            const char* help) const {
    return texts_key(about(name, type, "", help), at(field));
  }
  Key integers(const char* name, std::vector<std::int64_t> Part::*field, const Range& range,
               const char* help) const {
    return integers_key(about(name, "list of integers", "", help), at(field), range);
  }
  Key numbers(const char* name, std::vector<double> Part::*field, const Range& range,
              const char* help) const {
    return numbers_key(about(name, "list of numbers", "", help), at(field), range);
  }
  Key weights(const char* name, std::vector<NamedWeight> Part::*field, const char* help) const {
    return weights_key(about(name, "list of NAME:WEIGHT", "", help), at(field));
  }
  Key samples(const char* name, std::vector<SampleRange> Part::*field, const char* help) const {
    return samples_key(about(name, "list of FIRST:END", "", help), at(field));
  }
  Key steps(const char* name, std::vector<StepRange> Part::*field, const char* help) const {
    return steps_key(about(name, "list of N, FIRST-LAST, every:N or all", "", help), at(field));
  }

 private:
  template <class T>
  Field<T> at(T Part::*field) const {
    return [part = part_, field](Config& config) -> T& { return config.*part.*field; };
  }
  KeyText about(const char* name, const char* type, const char* unit, const char* help) const {
    return {name_ + "." + name, type, unit, help, jobs_};
  }

  std::string name_;
  Part Config::*part_;
  std::vector<std::string> jobs_;
};

/// The key, read by these jobs rather than by those of its section.
Key only(Key key, const char* jobs);

}  // namespace moesaic::config
