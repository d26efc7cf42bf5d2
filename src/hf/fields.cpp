#include "hf/fields.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

namespace moesaic::hf {
namespace {

constexpr std::size_t kMostShown = 60;  // characters of a value in a message

std::string shown(const Json& value) {
  std::string text = value.dump(-1, Json::Bytes::kReplaced);
  if (text.size() > kMostShown) {
    text = text.substr(0, kMostShown) + "...";
  }
  return text;
}

/// An integer of JSON, if it is one that fits.
std::optional<std::int64_t> integer(const Json& value) {
  if (value.is_count() && value.get<std::uint64_t>() > HfFields::kMostCount) {
    return HfFields::kMostCount + 1;
  }
  return value.is_integer() ? std::optional(value.get<std::int64_t>()) : std::nullopt;
}

}  // namespace

HfFields::HfFields(Json object, std::string family, std::string prefix)
    : object_(std::move(object)), family_(std::move(family)), prefix_(std::move(prefix)) {}

const Json* HfFields::find(const std::string& name) {
  known_.insert(name);
  return object_.find(name);
}

bool HfFields::has(const std::string& name) const {
  const Json* const found = object_.find(name);
  return found != nullptr && !found->is_null();
}

void HfFields::tell(const std::string& name, const std::string& why) {
  const Json* const found = object_.find(name);
  problems_.push_back(prefix_ + name + (found == nullptr ? "" : " = " + shown(*found)) + " " + why);
}

bool HfFields::any_refused(std::initializer_list<const char*> names) const {
  return std::any_of(names.begin(), names.end(),
                     [&](const char* name) { return refused_.contains(name); });
}

void HfFields::problem(const std::string& name, const std::string& why) {
  if (refused_.insert(name).second) {
    tell(name, why);
  }
}

void HfFields::conflict(const std::string& name, std::initializer_list<const char*> others,
                        const std::string& why) {
  if (!refused_.contains(name) && !any_refused(others)) {
    tell(name, why);
  }
}

std::int64_t HfFields::count(const std::string& name, std::int64_t otherwise, std::int64_t least,
                             std::int64_t most) {
  const Json* value = find(name);
  if (value == nullptr) {
    return otherwise;
  }
  const auto number = integer(*value);
  if (!number || *number < least || *number > most) {
    problem(name, fmt::format("is not a whole number from {} to {}", least, most));
    return otherwise;
  }
  return *number;
}

std::optional<std::int64_t> HfFields::optional_count(const std::string& name,
                                                     std::optional<std::int64_t> otherwise,
                                                     std::int64_t least) {
  const Json* value = find(name);
  if (value == nullptr || value->is_null()) {
    return value == nullptr ? otherwise : std::nullopt;
  }
  return count(name, otherwise.value_or(least), least);
}

double HfFields::number(const std::string& name, double otherwise) {
  const Json* value = find(name);
  if (value == nullptr) {
    return otherwise;
  }
  if (!value->is_number() || !std::isfinite(value->get<double>()) || value->get<double>() < 0.0) {
    problem(name, "is not a number of at least 0");
    return otherwise;
  }
  return value->get<double>();
}

std::optional<double> HfFields::optional_number(const std::string& name) {
  return find(name) == nullptr || !has(name) ? std::nullopt : std::optional(number(name, 1.0));
}

bool HfFields::flag(const std::string& name, bool otherwise) {
  const Json* value = find(name);
  if (value != nullptr && !value->is_boolean()) {
    problem(name, "is neither true nor false");
  }
  return value != nullptr && value->is_boolean() ? value->get<bool>() : otherwise;
}

std::string HfFields::text(const std::string& name, const std::string& otherwise) {
  const Json* value = find(name);
  if (value != nullptr && !value->is_string()) {
    problem(name, "is not a text");
  }
  return value != nullptr && value->is_string() ? value->get<std::string>() : otherwise;
}

std::vector<std::int64_t> HfFields::counts(const std::string& name, std::int64_t below) {
  std::vector<std::int64_t> values;
  const Json* value = find(name);
  if (value == nullptr || value->is_null()) {
    return values;
  }
  for (const Json& one : value->is_array() ? *value : Json::array({nullptr})) {
    const auto number = integer(one);
    if (!number || *number < 0 || *number >= below) {
      problem(name, fmt::format("is not a list of whole numbers below {}", below));
      return {};
    }
    values.push_back(*number);
  }
  return values;
}

std::vector<std::string> HfFields::texts(const std::string& name) {
  std::vector<std::string> values;
  const Json* value = find(name);
  if (value == nullptr || value->is_null()) {
    return values;
  }
  for (const Json& one : value->is_array() ? *value : Json::array({nullptr})) {
    if (!one.is_string()) {
      problem(name, "is not a list of texts");
      return {};
    }
    values.push_back(one.get<std::string>());
  }
  return values;
}

Json HfFields::object(const std::string& name) {
  const Json* value = find(name);
  if (value == nullptr || value->is_null()) {
    return nullptr;
  }
  if (!value->is_object()) {
    problem(name, "is not an object");
    return nullptr;
  }
  return *value;
}

void HfFields::must_be(const std::string& name, const Json& value,
                       std::initializer_list<const char*> from) {
  const Json* found = find(name);
  if (found != nullptr && !found->is_null() && *found != value && !any_refused(from)) {
    problem(name, fmt::format("is not supported for {}: only {} is", family_, shown(value)));
  }
}

void HfFields::ignore(std::initializer_list<const char*> names) {
  known_.insert(names.begin(), names.end());
}

void HfFields::same(const std::string& name, const std::string& other) {
  const Json* second = find(other);
  if (second == nullptr) {
    return;
  }
  const Json* first = find(name);
  if (first == nullptr) {
    object_[name] = Json(*second);
  } else if (*first != *second) {
    problem(other, fmt::format("contradicts {} = {}", name, shown(*first)));
  }
}

std::vector<std::string> HfFields::problems() const {
  std::vector<std::string> all = problems_;
  for (const auto& [name, value] : object_.items()) {
    if (!known_.contains(name)) {
      all.push_back(
          fmt::format("{}{} = {} is not known for {}", prefix_, name, shown(value), family_));
    }
  }
  return all;
}

}  // namespace moesaic::hf
