#pragma once

#include <string>
#include <vector>

#include "config/config.h"

namespace moesaic::config {

// What a job is given to read and to write: a line for each problem (problems in validate.h).
void check_train_inputs(const Config& c, std::vector<std::string>& lines);
void check_score(const Config& c, std::vector<std::string>& lines);
void check_tokenize(const Tokenize& t, std::vector<std::string>& lines);

}  // namespace moesaic::config
