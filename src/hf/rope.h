#pragma once

#include "hf/family.h"

namespace moesaic::hf {

/// Rotary embedding of config.json, in either spelling (rope_theta and rope_scaling, or
/// rope_parameters). theta: the family's, where none is given; yarn: what gpt-oss has where no
/// scaling is given, else null.
void read_rope(Reading& r, double theta, const Json& yarn = nullptr);
void write_rope(const config::Model& model, Json& json);

}  // namespace moesaic::hf
