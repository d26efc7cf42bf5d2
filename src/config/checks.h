#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config/config.h"

// What the checks of a config share. Each appends a line for every problem: the numbers and what
// would do.
namespace moesaic::config {

using Lines = std::vector<std::string>;

/// The divisors of n next to `value`, as "2 or 4".
std::string near_divisors(std::int64_t n, std::int64_t value);
/// The positive multiples of `step` next to `value`.
std::string near_multiples(std::int64_t step, std::int64_t value);

/// Attention, experts and router.
void check_model(const Config& config, Lines& lines);
// What a job is given to read and to write.
void check_train_inputs(const Config& config, Lines& lines);
void check_score(const Config& config, Lines& lines);
void check_generate(const Config& config, Lines& lines);
void check_convert(const ConvertJob& convert, Lines& lines);
void check_tokenize(const Tokenize& tokenize, Lines& lines);

}  // namespace moesaic::config
