#pragma once

#include <cstdint>
#include <string>
#include <vector>

// How messages tell of stored tensors that do not fit to a model.
namespace moesaic::hf {

/// Adds "\n  3 WHAT: a, b, c" to a message, with the first names; nothing if there are none.
void list_tensors(std::string& message, const std::vector<std::string>& names,
                  const std::string& what);

/// "NAME [2, 3] (due: [3, 2])"; empty if both shapes are the same.
std::string shape_problem(const std::string& name, const std::vector<std::int64_t>& stored,
                          const std::vector<std::int64_t>& due);

}  // namespace moesaic::hf
