#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <variant>
#include <vector>

namespace moesaic {

/// A text that is not JSON, or a value that is not of the type that was asked for.
class JsonError : public std::runtime_error {
 public:
  explicit JsonError(const std::string& what, std::size_t byte = 0)
      : std::runtime_error(what), byte_(byte) {}
  /// Position in the text, from 1; 0: the fault is not one of the text.
  std::size_t byte() const { return byte_; }

 private:
  std::size_t byte_;
};

/// A JSON value: null, true or false, a number, a string, an array or an object, whose fields are
/// ordered by name. nlohmann::json reads and writes the text, in json.cpp alone: its templates in
/// each file that touches a value would cost most of that file's compilation.
///
/// Values in braces are an object where each is a pair that begins with a string, else an array:
/// {{"step", 3}, {"loss", 2.5}} and {1, 2, 3}.
class Json {
 public:
  using Array = std::vector<Json>;
  using Object = std::map<std::string, Json, std::less<>>;

  Json();
  Json(std::nullptr_t);
  Json(const char* text);
  Json(std::string text);
  Json(std::string_view text);
  Json(Array list);
  Json(Object object);
  Json(std::initializer_list<Json> values);
  Json(const std::vector<std::string>& texts);
  Json(const std::vector<std::int32_t>& numbers);
  Json(const std::vector<std::int64_t>& numbers);
  Json(const std::vector<double>& numbers);
  template <typename T>
  requires std::is_arithmetic_v<T> Json(T number) {
    if constexpr (std::is_same_v<T, bool>) {
      set_boolean(number);
    } else if constexpr (std::is_floating_point_v<T>) {
      set_real(number);
    } else if constexpr (std::is_unsigned_v<T>) {
      set_unsigned(number);
    } else {
      set_integer(number);
    }
  }
  Json(const Json& other);
  Json(Json&& other) noexcept;
  Json& operator=(const Json& other);
  Json& operator=(Json&& other) noexcept;
  ~Json();

  static Json array();
  static Json array(std::initializer_list<Json> values);  // also where all are pairs
  static Json object();

  bool is_null() const;
  bool is_boolean() const;
  bool is_number() const;
  bool is_integer() const;
  bool is_count() const;  // an integer of at least 0
  bool is_integer_in(std::int64_t least, std::int64_t most) const;
  bool is_string() const;
  bool is_array() const;
  bool is_object() const;

  /// bool, std::int32_t, std::int64_t, std::uint64_t, double, std::string, and std::vector of
  /// std::int32_t, std::int64_t, double or std::string. JsonError if it is none, or does not fit.
  template <typename T>
  T get() const;
  const std::string& string() const;  // JsonError if it is none

  /// Elements of an array or fields of an object; a null has none, all else one.
  std::size_t size() const;
  bool empty() const { return size() == 0; }

  // Arrays; JsonError if it is none.
  const Json& operator[](std::size_t index) const { return at(index); }
  const Json& operator[](int index) const { return at(static_cast<std::size_t>(index)); }
  const Json& at(std::size_t index) const;  // JsonError if there are not so many
  Array::const_iterator begin() const;
  Array::const_iterator end() const;
  Json& push_back(Json value);  // the new element; null becomes an array

  // Objects.
  bool contains(std::string_view field) const;     // false if it is no object
  const Json* find(std::string_view field) const;  // nullptr if it is absent
  const Json& at(std::string_view field) const;    // JsonError if it is absent
  const Json& at(const char* field) const { return at(std::string_view(field)); }
  const Json& operator[](std::string_view field) const { return at(field); }
  const Json& operator[](const char* field) const { return at(field); }
  Json& operator[](std::string_view field);  // made where it is absent; null becomes an object
  Json& operator[](const char* field) { return (*this)[std::string_view(field)]; }
  void erase(std::string_view field);
  const Object& items() const;  // JsonError if it is no object
  /// The field's value, or `otherwise` where it is absent.
  template <typename T>
  T value(std::string_view field, T otherwise) const {
    const Json* const found = find(field);
    return found == nullptr ? otherwise : found->get<T>();
  }
  std::string value(std::string_view field, const char* otherwise) const {
    return value(field, std::string(otherwise));
  }

  /// Numbers by their value: 1 and 1.0 are equal.
  bool operator==(const Json& other) const;

  struct Rules {
    int most_depth = 512;      // of objects and arrays within one another
    bool unique_keys = false;  // else the last of two fields of one name counts
  };
  /// JsonError if the text is not JSON by these rules.
  static Json parse(std::string_view text, const Rules& rules);
  static Json parse(std::string_view text);
  static Json parse_or_null(std::string_view text);  // null if it is not JSON

  enum class Bytes { kUtf8, kReplaced };  // JsonError for bytes that are not UTF-8, or U+FFFD
  /// indent: spaces for each level, -1 for one line.
  std::string dump(int indent = -1, Bytes bytes = Bytes::kUtf8) const;

  /// CBOR (RFC 8949) for messages between ranks: texts in it need not be UTF-8.
  std::string to_cbor() const;
  static Json from_cbor(std::string_view bytes);

 private:
  void set_boolean(bool value);
  void set_integer(std::int64_t value);
  void set_unsigned(std::uint64_t value);
  void set_real(double value);
  double real() const;
  const Array& the_array() const;
  [[noreturn]] void wrong_type(const char* wanted) const;

  friend class JsonText;
  // std::uint64_t only for what std::int64_t cannot hold.
  std::variant<std::nullptr_t, bool, std::int64_t, std::uint64_t, double, std::string, Array,
               Object>
      value_;
};

template <>
Json Json::get() const;
template <>
bool Json::get() const;
template <>
std::int32_t Json::get() const;
template <>
std::int64_t Json::get() const;
template <>
std::uint64_t Json::get() const;
template <>
double Json::get() const;
template <>
std::string Json::get() const;
template <>
std::vector<std::int32_t> Json::get() const;
template <>
std::vector<std::int64_t> Json::get() const;
template <>
std::vector<double> Json::get() const;
template <>
std::vector<std::string> Json::get() const;

}  // namespace moesaic
