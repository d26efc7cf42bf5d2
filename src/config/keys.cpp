#include "config/keys.h"

#include <algorithm>

#include "base/text.h"
#include "config/value.h"

namespace moesaic::config {

Key::Key() = default;
Key::Key(const Key& other) = default;
Key::Key(Key&& other) noexcept = default;
Key& Key::operator=(const Key& other) = default;
Key& Key::operator=(Key&& other) noexcept = default;
Key::~Key() = default;

bool Key::read_by(std::string_view job) const {
  return std::find(jobs.begin(), jobs.end(), job) != jobs.end();
}

std::string Key::text(const Config& config) const {
  std::vector<std::string> items = get(config);
  if (!list && items.front().empty()) {
    return {};
  }
  std::transform(items.begin(), items.end(), items.begin(), quote_item);
  return join(items, ", ");
}

const std::vector<Key>& keys() {
  static const std::vector<Key> table = [] {
    std::vector<Key> all;
    for (const auto& part : {model_keys(), training_keys(), job_keys()}) {
      all.insert(all.end(), part.begin(), part.end());
    }
    return all;
  }();
  return table;
}

const Key* find_key(std::string_view name) {
  const auto& all = keys();
  const auto found =
      std::find_if(all.begin(), all.end(), [&](const Key& key) { return key.name == name; });
  return found == all.end() ? nullptr : &*found;
}

std::vector<std::string> sections() {
  std::vector<std::string> names;
  for (const Key& key : keys()) {
    if (names.empty() || names.back() != key.section()) {
      names.push_back(key.section());
    }
  }
  return names;
}

std::string suggestion(const std::string& unknown) {
  const std::string field = unknown.substr(unknown.find('.') + 1);
  std::vector<std::string> names;
  std::vector<std::string> fields;
  std::vector<std::string> same_field;
  for (const Key& key : keys()) {
    names.push_back(key.name);
    fields.push_back(key.field());
    if (key.field() == field) {
      same_field.push_back(key.name);
    }
  }
  std::string near = nearest(unknown, names);
  if (!same_field.empty()) {
    near = join(same_field, " or ");
  } else if (near.empty()) {
    const auto at = std::find(fields.begin(), fields.end(), nearest(field, fields));
    near =
        at == fields.end() ? std::string() : names[static_cast<std::size_t>(at - fields.begin())];
  }
  return near.empty() ? std::string() : "; did you mean " + near + "?";
}

}  // namespace moesaic::config
