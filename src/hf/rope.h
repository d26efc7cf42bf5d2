#pragma once

#include <cstdint>

#include "hf/config.h"
#include "hf/fields.h"

namespace moesaic::hf {

/// Rotary embedding of config.json, in either spelling (rope_theta and rope_scaling, or
/// rope_parameters), into our keys. theta: the family's, where none is given; yarn: what gpt-oss
/// has where no scaling is given, else null.
void read_rope(HfFields& fields, double theta, const Json& yarn, HfKeys& keys);
/// The other way, in the first spelling.
void write_rope(const HfKeys& keys, Json& config);

}  // namespace moesaic::hf
