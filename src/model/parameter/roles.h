#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace moesaic::model {

/// A set of public names: a glob (`*` also stands for dots), or a word for a part of the model.
///   all    every name              head     the output head (the table, if tied)
///   last:N the last N blocks       router   what the gates of all layers learn
///   adapter  every adapter
class NamePattern {
 public:
  /// layers, tied: of the model.
  NamePattern(std::string text, std::int64_t layers, bool tied);
  bool matches(std::string_view name) const;
  const std::string& text() const { return text_; }

 private:
  std::string text_;
  std::string glob_;
  std::int64_t first_layer_ = -1;  // of last:N
};

/// What training changes, by public name: the same on every rank, whatever it holds.
class Roles {
 public:
  /// Everything is trained.
  Roles() = default;
  /// Nothing is: an instance that only computes.
  static Roles none();

  /// The patterns of train.trainable; excluded: those that were written with `!`.
  void set_trained(std::vector<NamePattern> trained, std::vector<NamePattern> excluded);
  /// Factors of the learning rate; the last that matches counts.
  void set_lr_scales(std::vector<std::pair<NamePattern, double>> scales);
  /// The lowest part of the whole model that has anything trained: 0 the embedding, 1 + l block l,
  /// then the last norm, then the head.
  void set_lowest_part(std::int64_t part) { lowest_part_ = part; }
  void set_freezes(bool freezes) { freezes_ = freezes; }

  bool trains(std::string_view name) const;
  /// Whether any tensor of the whole model is frozen.
  bool freezes() const { return freezes_; }
  double lr_scale(std::string_view name) const;
  std::int64_t lowest_part() const { return lowest_part_; }

 private:
  bool all_ = true, freezes_ = false;
  std::vector<NamePattern> trained_, excluded_;
  std::vector<std::pair<NamePattern, double>> scales_;
  std::int64_t lowest_part_ = 0;
};

}  // namespace moesaic::model
