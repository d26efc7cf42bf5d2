#pragma once

#include "config/options.h"

namespace moesaic::cli {

/// The job `plan`: what a config will take on plan.ranks, and what is wrong with it. No MPI.
/// Returns the exit code.
int plan(const config::Parsed& parsed);

}  // namespace moesaic::cli
