#include "config/section.h"

#include <algorithm>

#include "base/error.h"
#include "base/text.h"

namespace moesaic::config {
namespace {

using Items = std::vector<std::string>;

Key key_of(const KeyText& text, const std::string& range = "") {
  Key key;
  key.name = text.name;
  key.type = text.type;
  key.unit = text.unit;
  key.range = range;
  key.help = text.help;
  key.jobs = text.jobs;
  return key;
}

template <class T>
const T& value_of(const Field<T>& field, const Config& config) {
  return field(const_cast<Config&>(config));  // which it does not change
}

const std::string& only_item(const Items& items) {
  static const std::string nothing;
  return items.empty() ? nothing : items.front();
}

template <class T, class Parse, class Format>
Key scalar(Key key, const Field<T>& field, const Parse& parse, const Format& format) {
  key.get = [field, format](const Config& config) {
    return Items{format(value_of(field, config))};
  };
  key.set = [field, parse](Config& config, const Items& items) {
    field(config) = parse(only_item(items));
  };
  return key;
}

template <class T, class Parse, class Format>
Key list(Key key, const Field<std::vector<T>>& field, const Parse& parse, const Format& format) {
  key.list = true;
  key.get = [field, format](const Config& config) {
    const std::vector<T>& values = value_of(field, config);
    Items items(values.size());
    std::transform(values.begin(), values.end(), items.begin(), format);
    return items;
  };
  key.set = [field, parse](Config& config, const Items& items) {
    std::vector<T> values(items.size());
    std::transform(items.begin(), items.end(), values.begin(), parse);
    field(config) = values;
  };
  return key;
}

std::function<double(const std::string&)> checked(const Range& range,
                                                  double (*parse)(std::string_view)) {
  return [range, parse](const std::string& text) {
    const double value = parse(text);
    range.check(value, text);
    return value;
  };
}

std::function<std::int64_t(const std::string&)> checked_integer(const Range& range) {
  return [range](const std::string& text) {
    const std::int64_t value = parse_integer(text);
    range.check(static_cast<double>(value), text);
    return value;
  };
}

std::string format_integer(std::int64_t value) { return std::to_string(value); }

/// The index of the name; "true" and "false" are 1 and 0.
std::size_t parse_choice(const std::string& text, const Items& names) {
  const std::string word = text == "true" ? "1" : (text == "false" ? "0" : text);
  const auto found = std::find(names.begin(), names.end(), word);
  if (found != names.end()) {
    return static_cast<std::size_t>(found - names.begin());
  }
  const std::string near = nearest(text, names);
  throw Error(Exit::kUsage, "\"" + text + "\" is not one of " + join(names, ", ") +
                                (near.empty() ? "" : "; did you mean " + near + "?"));
}

template <class T>
Key choice_of(const KeyText& text, const Items& names, const std::vector<T>& choices,
              const Field<T>& field) {
  const auto get = [field, choices](const Config& config) {
    const auto found = std::find(choices.begin(), choices.end(), value_of(field, config));
    return static_cast<std::size_t>(found - choices.begin());
  };
  const auto set = [field, choices](Config& config, std::size_t index) {
    field(config) = choices[index];
  };
  return choice_key(text, names, get, set);
}

Items names_of(const std::vector<DType>& dtypes) {
  Items names;
  for (const DType dtype : dtypes) {
    names.emplace_back(name_of(dtype));
  }
  return names;
}

}  // namespace

Key dtype_key(const KeyText& text, const Field<DType>& field, const std::vector<DType>& choices) {
  return choice_of(text, names_of(choices), choices, field);
}

Key optional_dtype_key(const KeyText& text, const Field<std::optional<DType>>& field,
                       const char* nothing, const std::vector<DType>& choices) {
  Items names = names_of(choices);
  names.insert(names.begin(), nothing);
  std::vector<std::optional<DType>> all(choices.begin(), choices.end());
  all.insert(all.begin(), std::nullopt);
  return choice_of(text, names, all, field);
}

Key integer_key(const KeyText& text, const Field<std::int64_t>& field, const Range& range) {
  return scalar(key_of(text, range.text()), field, checked_integer(range), format_integer);
}

Key number_key(const KeyText& text, const Field<double>& field, const Range& range) {
  return scalar(key_of(text, range.text()), field, checked(range, parse_number), format_number);
}

Key duration_key(const KeyText& text, const Field<double>& field) {
  const Range range = at_least(0);
  return scalar(key_of(text, range.text()), field, checked(range, parse_duration), format_duration);
}

Key auto_duration_key(const KeyText& text, const Field<double>& field) {
  const Range range = at_least(0);
  const auto parse = [read = checked(range, parse_duration)](const std::string& word) {
    return word == "auto" ? -1.0 : read(word);
  };
  return scalar(key_of(text, "auto, or " + range.text()), field, parse, [](double value) {
    return value < 0.0 ? std::string("auto") : format_duration(value);
  });
}

Key bytes_key(const KeyText& text, const Field<double>& field) {
  const Range range = at_least(0);
  return scalar(key_of(text, range.text()), field, checked(range, parse_bytes), format_bytes);
}

Key boolean_key(const KeyText& text, const Field<bool>& field) {
  return scalar(key_of(text, "0, 1, false, true"), field, parse_boolean,
                [](bool value) { return std::string(value ? "1" : "0"); });
}

Key text_key(const KeyText& text, const Field<std::string>& field) {
  const auto as_it_is = [](const std::string& value) { return value; };
  return scalar(key_of(text), field, as_it_is, as_it_is);
}

Key texts_key(const KeyText& text, const Field<Items>& field) {
  const auto as_it_is = [](const std::string& value) { return value; };
  return list(key_of(text), field, as_it_is, as_it_is);
}

Key integers_key(const KeyText& text, const Field<std::vector<std::int64_t>>& field,
                 const Range& range) {
  return list(key_of(text, range.text()), field, checked_integer(range), format_integer);
}

Key numbers_key(const KeyText& text, const Field<std::vector<double>>& field, const Range& range) {
  return list(key_of(text, range.text()), field, checked(range, parse_number), format_number);
}

Key weights_key(const KeyText& text, const Field<std::vector<NamedWeight>>& field) {
  const Range range = at_least(0);
  const auto parse = [range](const std::string& item) {
    NamedWeight weight = parse_weight(item);
    range.check(weight.second, item);
    return weight;
  };
  return list(key_of(text, range.text()), field, parse, format_weight);
}

Key samples_key(const KeyText& text, const Field<std::vector<SampleRange>>& field) {
  return list(key_of(text), field, parse_samples, format_samples);
}

Key steps_key(const KeyText& text, const Field<std::vector<StepRange>>& field) {
  return list(key_of(text), field, parse_steps, format_steps);
}

Key choice_key(const KeyText& text, const Items& names,
               const std::function<std::size_t(const Config&)>& get,
               const std::function<void(Config&, std::size_t)>& set) {
  Key key = key_of(text);
  key.type = join(names, "|");
  key.get = [get, names](const Config& config) { return Items{names.at(get(config))}; };
  key.set = [set, names](Config& config, const Items& items) {
    set(config, parse_choice(only_item(items), names));
  };
  return key;
}

Key only(Key key, const char* jobs) {
  key.jobs = split(jobs, ' ');
  return key;
}

}  // namespace moesaic::config
