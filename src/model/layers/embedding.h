#pragma once

#include <string>

#include "config/config.h"
#include "model/context.h"
#include "model/parameter/parameters.h"

namespace moesaic::model {

/// Adds a table (V, D) that is split over tp by tokens: that of the embedding, or the head's. A
/// tied one is on the first and on the last stage.
Parameter& add_table(Parameters& parameters, const config::Model& model, const Placement& placement,
                     const std::string& name, bool in_products);

/// A row of the table for each token, summed over tp, whose ranks share out the vocabulary.
class Embedding {
 public:
  Embedding(Parameters& parameters, const config::Model& model, const Placement& placement);

  /// The tokens of the micro-batch -> (t, D) fp32. Collective over tp.
  Tensor forward(Context& ctx) const;
  /// dy: (t, D) fp32. Adds into the table's gradient. Collective over tp.
  void backward(Context& ctx, const Tensor& dy) const;

  Parameter& table() const { return table_; }

 private:
  const Tensor& local_tokens(Context& ctx) const;

  Slice vocabulary_;
  Parameter& table_;
};

}  // namespace moesaic::model
