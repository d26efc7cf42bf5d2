// The text of a Json, read and written by nlohmann/json.
#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <utility>

#include "base/json.h"

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
  std::vector<Json*> open_;  // the objects and arrays around the current value; none of them moves
  std::string key_;
};

Json built(std::string_view text, const Json::Rules& rules, nlohmann::json::input_format_t format) {
  Builder builder(rules);
  nlohmann::json::sax_parse(text.begin(), text.end(), &builder, format);
  return builder.take();
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
