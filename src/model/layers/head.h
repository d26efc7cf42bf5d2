#pragma once

#include <functional>
#include <span>
#include <vector>

#include "model/context.h"
#include "model/parameter/parameters.h"
#include "model/swap_layer_weights.h"

namespace moesaic::model {

/// logits = weight x, and the cross-entropy of the next token, a block of rows at a time: no
/// (T, V) buffer exists. The vocabulary is split over tp, whose ranks exchange three numbers for
/// each row.   x: (t, D) compute   weight: (V_local, D), the embedding's if tied
class Head {
 public:
  /// vocabulary: this rank's share.
  Head(Parameter& weight, Slice vocabulary) : weight_(weight), vocabulary_(vocabulary) {}

  struct LogProbs {
    std::vector<float> logprob;      // [T] nats, of the targets; 0 where there is none
    std::vector<std::int32_t> best;  // [T] the argmax
  };
  /// Collective over tp; the same on each of its ranks.
  LogProbs log_probs(Context& ctx, const Tensor& x) const;

  bool is_quantized() const { return model::is_quantized(weight_); }

  struct Comparison {
    LogProbs own, reference;
    std::vector<float> divergence;  // [T] D(reference || own), nats
  };
  /// What this model says of the tokens beside a reference, whose head reads reference_x. Both have
  /// this micro-batch, one vocabulary and one layout. Collective over tp.
  Comparison compare(Context& ctx, const Tensor& x, Context& reference_ctx, const Head& reference,
                     const Tensor& reference_x) const;

  /// A row of logits in short.
  struct Peak {
    std::int32_t best;  // of equal logits the first
    float largest;
    float log_sum;  // log sum of exp(logit)
  };
  /// Calls use(i, peak, logits) for rows[i] of x, one after the other; the logits (V) of the whole
  /// vocabulary are there if they are wanted, else empty. The same on each rank of tp; collective
  /// over it.
  void each_row(Context& ctx, const Tensor& x, const std::vector<std::int32_t>& rows,
                bool logits_wanted,
                const std::function<void(std::size_t i, const Peak& peak,
                                         std::span<const float> logits)>& use) const;

  /// What the loss of a micro-batch says of its rows, on the device until somebody reads it.
  struct LossRows {
    std::vector<std::int32_t> target;  // [T]
    Tensor stats;                      // (T, 3) fp32, of the whole vocabulary (softmax_stats)
    Tensor best;                       // (T) int32, the argmax
    Tensor spread;                     // (T) fp32, of this share (cross_entropy_backward)
  };
  struct Loss {
    Tensor dx;  // (t, D) fp32
    LossRows rows;
  };
  /// The loss is -sum(weight logprob); weight: [T]. Adds into the gradient of the head's weights in
  /// the same pass over the logits. wants_dx: else dx stays undefined, on every rank of tp.
  /// Collective over tp.
  Loss loss(Context& ctx, const Tensor& x, std::span<const float> weight,
            bool wants_dx = true) const;
  struct Metrics {
    std::vector<float> logprob;  // [T]
    std::int64_t correct = 0;    // targets that are the argmax
    double entropy = 0.0;        // nats, summed over targets: this rank's term of the sum over tp
  };
  /// Reads the rows of some micro-batches with one wait. Not collective.
  static std::vector<Metrics> read(const Context& ctx, std::span<const LossRows> rows);

  /// This rank's logits (T, V_local) fp32 of all rows x (T, D); for tests and small inputs. Not
  /// collective.
  Tensor logits(Context& ctx, const Tensor& x) const;

 private:
  std::int64_t block_rows(const Context& ctx) const;
  const Tensor& local_targets(Context& ctx) const;
  std::vector<float> whole_rows(const Context& ctx, std::span<const float> share,
                                std::int64_t rows) const;

  Parameter& weight_;
  Slice vocabulary_;
};

}  // namespace moesaic::model
