#include "base/json.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>

namespace moesaic {
namespace {

/// The integer as a T, if it fits.
template <typename T>
std::optional<T> fitting(std::int64_t value) {
  return std::in_range<T>(value) ? std::optional(static_cast<T>(value)) : std::nullopt;
}

}  // namespace

Json::Json() : value_(nullptr) {}
Json::Json(std::nullptr_t) : value_(nullptr) {}
Json::Json(const char* text) : value_(std::string(text)) {}
Json::Json(std::string text) : value_(std::move(text)) {}
Json::Json(std::string_view text) : value_(std::string(text)) {}
Json::Json(Array list) : value_(std::move(list)) {}
Json::Json(Object object) : value_(std::move(object)) {}
Json::Json(std::initializer_list<Json> values) {
  const bool pairs = std::all_of(values.begin(), values.end(), [](const Json& value) {
    return value.is_array() && value.size() == 2 && value[0].is_string();
  });
  if (!pairs) {
    value_ = Array(values);
    return;
  }
  Object fields;
  for (const Json& value : values) {
    fields[value[0].string()] = value[1];
  }
  value_ = std::move(fields);
}
Json::Json(const std::vector<std::string>& texts) : value_(Array(texts.begin(), texts.end())) {}
Json::Json(const std::vector<std::int32_t>& numbers)
    : value_(Array(numbers.begin(), numbers.end())) {}
Json::Json(const std::vector<std::int64_t>& numbers)
    : value_(Array(numbers.begin(), numbers.end())) {}
Json::Json(const std::vector<double>& numbers) : value_(Array(numbers.begin(), numbers.end())) {}
Json::Json(const Json& other) = default;
Json::Json(Json&& other) noexcept = default;
Json& Json::operator=(const Json& other) = default;
Json& Json::operator=(Json&& other) noexcept = default;
Json::~Json() = default;

Json Json::array() { return Array(); }
Json Json::array(std::initializer_list<Json> values) { return Array(values); }
Json Json::object() { return Object(); }

void Json::set_boolean(bool value) { value_ = value; }
void Json::set_integer(std::int64_t value) { value_ = value; }
void Json::set_unsigned(std::uint64_t value) {
  if (std::in_range<std::int64_t>(value)) {
    value_ = static_cast<std::int64_t>(value);
  } else {
    value_ = value;
  }
}
void Json::set_real(double value) { value_ = value; }

bool Json::is_null() const { return std::holds_alternative<std::nullptr_t>(value_); }
bool Json::is_boolean() const { return std::holds_alternative<bool>(value_); }
bool Json::is_number() const { return is_integer() || std::holds_alternative<double>(value_); }
bool Json::is_integer() const {
  return std::holds_alternative<std::int64_t>(value_) ||
         std::holds_alternative<std::uint64_t>(value_);
}
bool Json::is_count() const {
  const auto* const integer = std::get_if<std::int64_t>(&value_);
  return integer == nullptr ? std::holds_alternative<std::uint64_t>(value_) : *integer >= 0;
}
bool Json::is_integer_in(std::int64_t least, std::int64_t most) const {
  const auto* const integer = std::get_if<std::int64_t>(&value_);
  return integer != nullptr && *integer >= least && *integer <= most;
}
bool Json::is_string() const { return std::holds_alternative<std::string>(value_); }
bool Json::is_array() const { return std::holds_alternative<Array>(value_); }
bool Json::is_object() const { return std::holds_alternative<Object>(value_); }

void Json::wrong_type(const char* wanted) const {
  const char* const is = is_null()      ? "null"
                         : is_boolean() ? "a boolean"
                         : is_number()  ? "a number"
                         : is_string()  ? "a string"
                         : is_array()   ? "an array"
                                        : "an object";
  throw JsonError(fmt::format("{} is where {} should be", is, wanted));
}

double Json::real() const {
  if (const auto* const integer = std::get_if<std::int64_t>(&value_)) {
    return static_cast<double>(*integer);
  }
  if (const auto* const large = std::get_if<std::uint64_t>(&value_)) {
    return static_cast<double>(*large);
  }
  if (const auto* const number = std::get_if<double>(&value_)) {
    return *number;
  }
  wrong_type("a number");
}

template <>
Json Json::get() const {
  return *this;
}
template <>
bool Json::get() const {
  if (const auto* const found = std::get_if<bool>(&value_)) {
    return *found;
  }
  wrong_type("true or false");
}
template <>
std::int64_t Json::get() const {
  if (const auto* const found = std::get_if<std::int64_t>(&value_)) {
    return *found;
  }
  wrong_type("an integer of 64 bits");
}
template <>
std::int32_t Json::get() const {
  if (const auto fits = fitting<std::int32_t>(get<std::int64_t>())) {
    return *fits;
  }
  wrong_type("an integer of 32 bits");
}
template <>
std::uint64_t Json::get() const {
  if (const auto* const large = std::get_if<std::uint64_t>(&value_)) {
    return *large;
  }
  if (const auto fits = fitting<std::uint64_t>(get<std::int64_t>())) {
    return *fits;
  }
  wrong_type("an integer of at least 0");
}
template <>
double Json::get() const {
  return real();
}
template <>
std::string Json::get() const {
  return string();
}

namespace {

template <typename T>
std::vector<T> elements(const Json& list) {
  std::vector<T> all;
  all.reserve(list.size());
  for (const Json& element : list) {
    all.push_back(element.get<T>());
  }
  return all;
}

}  // namespace

template <>
std::vector<std::int32_t> Json::get() const {
  return elements<std::int32_t>(*this);
}
template <>
std::vector<std::int64_t> Json::get() const {
  return elements<std::int64_t>(*this);
}
template <>
std::vector<double> Json::get() const {
  return elements<double>(*this);
}
template <>
std::vector<std::string> Json::get() const {
  return elements<std::string>(*this);
}

const std::string& Json::string() const {
  if (const auto* const found = std::get_if<std::string>(&value_)) {
    return *found;
  }
  wrong_type("a string");
}

const Json::Array& Json::the_array() const {
  if (const auto* const found = std::get_if<Array>(&value_)) {
    return *found;
  }
  wrong_type("an array");
}

std::size_t Json::size() const {
  return is_array() ? the_array().size() : is_object() ? items().size() : is_null() ? 0 : 1;
}

const Json& Json::at(std::size_t index) const {
  const Array& all = the_array();
  if (index >= all.size()) {
    throw JsonError(fmt::format("an array has {} elements, not {}", all.size(), index + 1));
  }
  return all[index];
}

Json::Array::const_iterator Json::begin() const { return the_array().begin(); }
Json::Array::const_iterator Json::end() const { return the_array().end(); }

Json& Json::push_back(Json value) {
  if (is_null()) {
    value_ = Array();
  }
  if (auto* const all = std::get_if<Array>(&value_)) {
    return all->emplace_back(std::move(value));
  }
  wrong_type("an array");
}

const Json* Json::find(std::string_view field) const {
  const auto* const fields = std::get_if<Object>(&value_);
  if (fields == nullptr) {
    return nullptr;
  }
  const auto found = fields->find(field);
  return found == fields->end() ? nullptr : &found->second;
}

bool Json::contains(std::string_view field) const { return find(field) != nullptr; }

const Json& Json::at(std::string_view field) const {
  const Object& fields = items();
  const auto found = fields.find(field);
  if (found == fields.end()) {
    throw JsonError(fmt::format("its field '{}' is missing", field));
  }
  return found->second;
}

Json& Json::operator[](std::string_view field) {
  if (is_null()) {
    value_ = Object();
  }
  if (auto* const fields = std::get_if<Object>(&value_)) {
    return (*fields)[std::string(field)];
  }
  wrong_type("an object");
}

void Json::erase(std::string_view field) {
  if (auto* const fields = std::get_if<Object>(&value_)) {
    fields->erase(std::string(field));
  }
}

const Json::Object& Json::items() const {
  if (const auto* const found = std::get_if<Object>(&value_)) {
    return *found;
  }
  wrong_type("an object");
}

bool Json::operator==(const Json& other) const {
  if (is_number() && other.is_number() && value_.index() != other.value_.index()) {
    return real() == other.real();
  }
  return value_ == other.value_;
}

}  // namespace moesaic
