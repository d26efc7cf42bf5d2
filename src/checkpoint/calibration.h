#pragma once

#include <map>
#include <string>
#include <vector>

#include "engine/instance.h"
#include "model/activation_statistics.h"

namespace moesaic::checkpoint {

/// Fewer tokens than this say too little about an expert's inputs.
constexpr std::int64_t kCalibrationRows = 256;

/// What a calibration found. Where an expert met too few tokens, its gate and up get the
/// mean squares of all tokens of their layer, which they share inputs with, and its down none.
struct Calibration {
  std::map<std::string, std::vector<float>> mean_squares;  // public tensor -> (K) of its input
  std::vector<std::string> warnings;                       // one for each layer with such experts
};

/// Sums what each rank has seen of the public tensors named, the same list on every rank; all get
/// the result. Collective over the mesh's world.
Calibration join_sums(const engine::Instance& instance, const model::ActivationStatistics& seen,
                      const std::vector<std::string>& names);

}  // namespace moesaic::checkpoint
