#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "hf/tensors.h"

namespace moesaic::hf {

/// The tensors of a PEFT file, and what is wrong with them.
class PeftTensors {
 public:
  explicit PeftTensors(const std::string& text);  // PeftTexts::tensors

  /// Whether there is such a part; views name "MODULE.lora_A" or "MODULE.lora_B".
  bool has(const HfView& part) const { return names_.contains(part.tensor); }
  bool fits(const HfView& part) const;  // has it in this shape
  /// Puts the stored name into the view, and notes once what is wrong with the tensor.
  void complete(HfView& part);
  void stored_again(const std::string& weight);
  /// "\n  3 missing: a, b, c" for each kind of problem. Every tensor that was not completed is one.
  std::string problems();

 private:
  struct Stored {
    std::string dtype;
    std::vector<std::int64_t> shape;
  };
  void check(const HfView& part);
  void add(const std::string& kind, const std::string& tensor) {
    problems_[kind].push_back(tensor);
  }

  std::map<std::string, Stored> stored_;
  std::map<std::string, std::string> names_;  // of stored tensors by part
  std::set<std::string> unused_, checked_;
  std::map<std::string, std::vector<std::string>> problems_;  // tensors by kind
};

}  // namespace moesaic::hf
