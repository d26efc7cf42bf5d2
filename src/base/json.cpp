#include "base/json.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

namespace moesaic {
namespace {

/// nlohmann's messages without "[json.exception.parse_error.101] " and what the lexer read last.
std::string plain(std::string what) {
  what = what.substr(0, what.find("; last read: "));
  if (const std::size_t end = what.find("] "); what.starts_with('[') && end != what.npos) {
    what = what.substr(end + 2);
  }
  return what;
}

/// The events of nlohmann's parser, made into a value.
class Builder : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit Builder(const Json::Rules& rules) : rules_(rules) {}
  Json take() { return std::move(root_); }

  bool null() override { return add(Json()); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(std::int64_t value) override { return add(value); }
  bool number_unsigned(std::uint64_t value) override { return add(value); }
  bool number_float(double value, const std::string& /*text*/) override { return add(value); }
  bool string(std::string& value) override { return add(std::move(value)); }
  bool binary(nlohmann::json::binary_t& /*value*/) override {
    throw JsonError("binary data is not JSON");
  }
  bool start_object(std::size_t /*size*/) override { return open(Json::object()); }
  bool start_array(std::size_t /*size*/) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(std::string& name) override {
    if (rules_.unique_keys && open_.back()->contains(name)) {
      throw JsonError(fmt::format("it has '{}' twice", name));
    }
    key_ = std::move(name);
    return true;
  }
  bool parse_error(std::size_t byte, const std::string& /*token*/,
                   const nlohmann::json::exception& error) override {
    throw JsonError(plain(error.what()), byte);
  }

 private:
  Json& put(Json value) {
    if (open_.empty()) {
      return root_ = std::move(value);
    }
    Json& parent = *open_.back();
    if (parent.is_object()) {
      return parent[key_] = std::move(value);
    }
    return parent.push_back(std::move(value));
  }
  bool add(Json value) {
    put(std::move(value));
    return true;
  }
  bool open(Json value) {
    if (std::ssize(open_) >= rules_.most_depth) {
      throw JsonError("it is nested too deeply");
    }
    open_.push_back(&put(std::move(value)));
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  Json::Rules rules_;
  Json root_;
  std::vector<Json*> open_;  // the objects and arrays around the place; none of them moves
  std::string key_;
};

Json built(std::string_view text, const Json::Rules& rules,
           nlohmann::json::input_format_t format) {
  Builder builder(rules);
  nlohmann::json::sax_parse(text.begin(), text.end(), &builder, format);
  return builder.take();
}

/// The integer as a T, if it fits.
template <typename T>
std::optional<T> fitting(std::int64_t value) {
  return std::in_range<T>(value) ? std::optional(static_cast<T>(value)) : std::nullopt;
}

}  // namespace

/// A value as nlohmann's, which writes it.
class JsonText {
 public:
  static nlohmann::json of(const Json& value) {
    return std::visit([](const auto& held) { return one(held); }, value.value_);
  }

 private:
  template <typename T>
  static nlohmann::json one(const T& held) {
    if constexpr (std::is_same_v<T, Json::Array>) {
      auto all = nlohmann::json::array();
      for (const Json& element : held) {
        all.push_back(of(element));
      }
      return all;
    } else if constexpr (std::is_same_v<T, Json::Object>) {
      auto all = nlohmann::json::object();
      for (const auto& [name, field] : held) {
        all[name] = of(field);
      }
      return all;
    } else {
      return held;
    }
  }
};

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
  if (const auto fits = std::in_range<std::int64_t>(value); fits) {
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
  const Json* const found = items().empty() ? nullptr : find(field);
  if (found == nullptr) {
    throw JsonError(fmt::format("its field '{}' is missing", field));
  }
  return *found;
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

Json Json::parse(std::string_view text, const Rules& rules) {
  return built(text, rules, nlohmann::json::input_format_t::json);
}
Json Json::parse(std::string_view text) { return parse(text, Rules()); }

Json Json::parse_or_null(std::string_view text) {
  try {
    return parse(text);
  } catch (const JsonError&) {
    return nullptr;
  }
}

std::string Json::dump(int indent, Bytes bytes) const {
  using Handler = nlohmann::json::error_handler_t;
  try {
    return JsonText::of(*this).dump(indent, ' ', false,
                                    bytes == Bytes::kUtf8 ? Handler::strict : Handler::replace);
  } catch (const nlohmann::json::exception& error) {
    throw JsonError(plain(error.what()));
  }
}

std::string Json::to_cbor() const {
  std::string bytes;
  nlohmann::json::to_cbor(JsonText::of(*this), bytes);
  return bytes;
}

Json Json::from_cbor(std::string_view bytes) {
  return built(bytes, Rules(), nlohmann::json::input_format_t::cbor);
}

}  // namespace moesaic
