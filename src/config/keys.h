#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "config/config.h"

namespace moesaic::config {

/// One key of the configuration: how it is named, explained, read and written. The table of all
/// keys drives parsing, help, the written config and comparisons.
struct Key {
  Key();
  Key(const Key& other);
  Key(Key&& other) noexcept;
  Key& operator=(const Key& other);
  Key& operator=(Key&& other) noexcept;
  ~Key();

  std::string name;               // "train.lr"
  std::string type;               // "integer", "cosine|linear|constant|wsd", ...
  std::string unit;               // empty: none
  std::string range;              // empty: any
  std::string help;               // one sentence
  std::vector<std::string> jobs;  // that read it
  bool list = false;
  std::function<std::vector<std::string>(const Config&)> get;
  /// One item for each element of a list, else one. Throws kUsage without key and location.
  std::function<void(Config&, const std::vector<std::string>&)> set;

  std::string section() const { return name.substr(0, name.find('.')); }
  std::string field() const { return name.substr(name.find('.') + 1); }
  bool read_by(std::string_view job) const;
  /// The value as it stands in a config file.
  std::string text(const Config& config) const;
};

/// All keys, grouped by section.
const std::vector<Key>& keys();
const Key* find_key(std::string_view name);  // nullptr if unknown
std::vector<std::string> sections();
/// "; did you mean train.steps?", or nothing if no key is near.
std::string suggestion(const std::string& unknown);

// The parts of the table, in their own files.
std::vector<Key> model_keys();
std::vector<Key> attention_keys();
std::vector<Key> training_keys();
std::vector<Key> job_keys();

}  // namespace moesaic::config
