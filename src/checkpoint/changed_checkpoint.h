#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/expert_pool_change.h"
#include "checkpoint/model_source.h"
#include "model/parameter/parameters.h"

namespace moesaic::checkpoint {

/// A checkpoint as if it had been saved with the expert pools of a change; without one, as it is.
/// What is new is a function of seed, public name and element alone, so that it is the same on any
/// layout: fresh experts and their rows of the gate begin as those of a new model do; copies differ
/// from their source by normal noise of 1 % of its root mean square, else they would always be
/// chosen together and stay alike. Moments begin at 0.
class ChangedCheckpoint {
 public:
  /// change: may be nullptr. Both must outlive it.
  ChangedCheckpoint(ModelSource& checkpoint, const PoolChange* change)
      : checkpoint_(checkpoint), change_(change) {}

  /// The shape that the checkpoint needs to have; nothing: of an expert that it need not have.
  std::optional<Shape> stored_shape(const model::PublicTensor& tensor) const;
  /// Rows [offset, offset + extent) of a tensor of the spec, or of its moment if there is a prefix
  /// of its name. values has the initial ones, which stay where nothing else is known.
  void read(const std::string& moment, const model::ParameterSpec& spec,
            const model::PublicTensor& tensor, const std::vector<std::int64_t>& offset,
            const std::vector<std::int64_t>& extent, std::span<float> values);

 private:
  std::vector<float> whole(const std::string& name, const Shape& shape);
  void read_rows(const LayerChange& layer, const std::string& moment,
                 const model::ParameterSpec& spec, const model::PublicTensor& tensor,
                 const std::vector<std::int64_t>& offset, const std::vector<std::int64_t>& extent,
                 std::span<float> values);
  void make_row(const LayerChange& layer, const model::ParameterSpec& spec,
                const model::PublicTensor& tensor, std::int64_t number, std::span<float> values);
  void make_expert(const LayerChange& layer, const model::ParameterSpec& spec,
                   const model::PublicTensor& tensor, std::span<float> values);

  ModelSource& checkpoint_;
  const PoolChange* change_;
};

}  // namespace moesaic::checkpoint
