#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/json.h"

namespace moesaic::hf {

/// The fields of one JSON object, which must all be accounted for: each is asked for, required to
/// have one value, or ignored by name. Problems are collected; a field with one reads as its
/// default.
class HfFields {
 public:
  /// family: for messages; prefix: of the names in messages ("rope_scaling.").
  HfFields(Json object, std::string family, std::string prefix = "");

  bool has(const std::string& name) const;  // and it is not null
  std::int64_t count(const std::string& name, std::int64_t otherwise, std::int64_t least = 1,
                     std::int64_t most = kMostCount);
  /// null is nothing; an absent field is `otherwise`.
  std::optional<std::int64_t> optional_count(const std::string& name,
                                             std::optional<std::int64_t> otherwise,
                                             std::int64_t least = 1);
  double number(const std::string& name, double otherwise);  // at least 0
  std::optional<double> optional_number(const std::string& name);
  bool flag(const std::string& name, bool otherwise);
  std::string text(const std::string& name, const std::string& otherwise);
  std::vector<std::int64_t> counts(const std::string& name, std::int64_t below);  // null: empty
  std::vector<std::string> texts(const std::string& name);                        // null: empty
  Json object(const std::string& name);  // null or absent: null

  /// The field, where it is there, must have this value, which follows from the fields `from`:
  /// where one of those has a problem, nothing is told.
  void must_be(const std::string& name, const Json& value,
               std::initializer_list<const char*> from = {});
  void ignore(std::initializer_list<const char*> names);
  /// `other` is another name of `name`; both may be there if they agree.
  void same(const std::string& name, const std::string& other);

  /// The field's first problem is told.
  void problem(const std::string& name, const std::string& why);
  /// A problem with other fields, told where neither they nor this one have a problem of their own.
  void conflict(const std::string& name, std::initializer_list<const char*> others,
                const std::string& why);
  void add(const std::string& problem) { problems_.push_back(problem); }
  /// The problems, those of fields that nobody asked for included.
  std::vector<std::string> problems() const;

  static constexpr std::int64_t kMostCount = std::int64_t{1} << 24U;

 private:
  const Json* find(const std::string& name);
  void tell(const std::string& name, const std::string& why);
  bool any_refused(std::initializer_list<const char*> names) const;

  Json object_;
  std::string family_, prefix_;
  std::set<std::string> known_, refused_;
  std::vector<std::string> problems_;
};

}  // namespace moesaic::hf
