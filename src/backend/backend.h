#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>

#include "backend/attention.h"
#include "backend/packed_weights.h"
#include "tensor/tensor.h"

// T tokens, D model width, R rows, F hidden width, E experts, K choices per token, G groups,
// H query heads, Hkv key/value heads, hd head width, V vocabulary.
// "compute" is the dtype of matrix products: fp32 or bf16. Sums are always taken in fp32.
namespace moesaic {

enum class Transpose { kNo, kYes };
enum class Write { kOverwrite, kAdd };
enum class Direction { kForward, kInverse };

enum class RouterScore { kSoftmax, kSigmoid };

/// What an expert is to the router. The numbers are those of the trace.
enum class ExpertState : std::int32_t { kAbsent, kRegular, kSpare, kRetired };

/// How logits become scores, choices and weights.
struct RouteOptions {
  RouterScore score = RouterScore::kSoftmax;
  std::int64_t top_k = 1;
  std::int64_t candidates = 0;              // experts that a first choice leaves over; 0: all
  std::int64_t groups = 1, top_groups = 1;  // of equal size, and how many of them are chosen from
  std::int64_t group_best = 2;              // a group is worth the sum of so many best, 1 or 2
  float threshold = 0.0F;                   // enough of a token's probability; 0: always top_k
  float temperature = 1.0F;
  bool normalize = true;
  float scale = 1.0F;
};

/// What a router's call reads and writes. All experts that ever were have a number in [0, E).
struct RouteTensors {
  Tensor state;    // (E) int32, ExpertState
  Tensor bias;     // (E) fp32, added to the scores for the choice alone
  Tensor added;    // (T, E) fp32, to the logits of the candidates; undefined: nothing
  Tensor segment;  // (T) int32, whose shares a token counts to; undefined: 0
  // In: of the gate. Out: (logits + added) / temperature, -inf where there is no candidate.
  Tensor logits;     // (T, E) fp32
  Tensor scores;     // (T, E) fp32 out; 0 where the logit is -inf
  Tensor selection;  // (T, E) fp32 out: how willingly a token would go where it does not go; a
                     // spare's is its logit; -inf: never, or it goes there
  Tensor choice;     // (T, K) int32 out, best first; -1: none
  Tensor weight;     // (T, K) fp32 out
  // Sums in double, each as a float and what its rounding left.
  Tensor shares;  // (2, S, E) fp32 out: over a segment's tokens, of the regular experts' scores
                  // normalised to sum 1
  Tensor sums;    // (2, 2) fp32 out: over tokens, of logsumexp^2 and of the shares' entropy, nats
};

/// What the auxiliary loss is multiplied and divided by.
struct AuxScale {
  std::int64_t regular = 1;  // experts
  double aux = 0.0;          // its factor in the loss
  double tokens = 1.0;       // of the step
};

struct RopeOptions {
  bool interleave = false;  // pairs are neighbours, not half a width apart
  float magnitude = 1.0F;   // factor on what is rotated
};

/// One AdamW update (Loshchilov & Hutter 2019): bias corrections are 1 - beta^t.
struct AdamW {
  float lr, beta1, beta2, eps, weight_decay;
  float correction1, correction2;
  float grad_scale;  // multiplies the gradient: clipping
};

/// What one such update reads and writes, all of one shape. value, grad: fp32; exp_avg, exp_avg_sq:
/// both fp32, or both bf16 (rounded when they are stored); copy: compute, or undefined.
struct AdamWTensors {
  AdamW step;
  Tensor grad, value, exp_avg, exp_avg_sq, copy;
};

/// A tensor, and where on the host its bytes go.
struct Download {
  Tensor from;
  std::span<std::byte> to;
};

/// A moment: when the work that was asked for before it is done. On the host it is done at once.
struct Mark {
  std::chrono::steady_clock::time_point time = {};  // of the host
  std::shared_ptr<void> event = {};                 // of a device
};

/// One device and every kernel that the model needs on it, ordered on one stream. Gradients of
/// parameters are added to; every other output is overwritten unless said otherwise. Zero rows are
/// legal everywhere.
class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string_view name() const = 0;

  // Memory.
  /// An uninitialised tensor from the memory pool; its memory returns there with the last owner.
  virtual Tensor empty(DType dtype, const Shape& shape) = 0;
  virtual void upload(std::span<const std::byte> host, const Tensor& to) = 0;
  /// Waits once for all of them.
  virtual void download(std::span<const Download> parts) = 0;
  void download(const Tensor& from, std::span<std::byte> to) {
    download(std::array{Download{from, to}});
  }
  virtual void synchronize() = 0;
  /// How often the host has waited for the device so far: in download and synchronize.
  std::int64_t waits() const { return waits_; }
  virtual Mark mark() = 0;
  /// From one mark to a later one. Waits until the device has come there, which nobody counts.
  virtual double seconds(const Mark& from, const Mark& to) = 0;
  /// Gives back the memory that is held in reserve for the next tensors.
  virtual void release_reserve() = 0;

  // Elementwise.
  virtual void zero(const Tensor& x) = 0;
  virtual void convert(const Tensor& from, const Tensor& to) = 0;  // fp32 <-> bf16, or a copy
  virtual void add(const Tensor& x, const Tensor& inout) = 0;      // inout += x; fp32
  virtual void scale(const Tensor& inout, float factor) = 0;       // fp32
  /// sums (n) fp64: of the squares of each of n tensors, fp32, summed in double.
  virtual void sums_of_squares(std::span<const Tensor> x, const Tensor& sums) = 0;

  /// c (M, N) = op(a) op(b). a and b are of one dtype; c is fp32, or theirs when overwritten.
  virtual void matmul(const Tensor& a, Transpose ta, const Tensor& b, Transpose tb, const Tensor& c,
                      Write write) = 0;
  // Groups of rows: rows [offsets[g], offsets[g + 1]) belong to group g, offsets (G + 1) int32
  // being undefined where one group has all rows. What lies before and behind them belongs to
  // nobody: it is neither read nor written. Weights w (G, N, M).
  virtual void grouped_matmul(const Tensor& x, const Tensor& offsets, const Tensor& w,
                              const Tensor& y) = 0;  // y (R,N) = x (R,M) w^T
  virtual void grouped_matmul_dx(const Tensor& dy, const Tensor& offsets, const Tensor& w,
                                 const Tensor& dx) = 0;  // dx (R,M) = dy w
  virtual void grouped_matmul_dw(const Tensor& dy, const Tensor& x, const Tensor& offsets,
                                 const Tensor& dw) = 0;  // dw (G,N,M) += dy^T x; fp32

  /// How weights that are only read are best kept for products in compute; nothing: as tensors.
  virtual std::optional<DType> inference_format(DType compute) const = 0;
  /// w (G, N, K) fp32 -> weights that are only read. mean_squares (K) or (G, K) fp32, at least 0:
  /// of the activations that each column meets; they weigh the rounding errors of int4. Undefined:
  /// all the same. Throws kBadData, naming the position, where a number of w is not finite, or one
  /// of mean_squares is not finite or is negative.
  virtual PackedWeights pack(DType format, const Tensor& w, const Tensor& mean_squares) = 0;
  /// w (G, N, K) fp32 = the numbers that the packed ones stand for.
  virtual void unpack(const PackedWeights& packed, const Tensor& w) = 0;
  /// Weights of these very codes, all of one type: the rows of w (G, N, K) in turn.
  virtual PackedWeights load_codes(const Shape& shape, std::span<const QuantizedRows> rows) = 0;
  /// The codes of int8 or int4 weights of one group.
  virtual QuantizedRows codes_of(const PackedWeights& packed) = 0;
  /// y (R, N) fp32 or compute = x (R, K) compute times w^T, with rows [offsets[g], offsets[g + 1])
  /// and w of group g; x has the columns w.slice. For int8 and int4 weights, x is rounded to eight
  /// bits by row and block of 256 along k, by the largest value there or, if defined, by peaks; for
  /// bf16 weights to bf16. A row's bits depend on itself alone.
  virtual void packed_matmul(const Tensor& x, const Tensor& offsets, const PackedWeights& w,
                             const Tensor& y, const Tensor& peaks) = 0;
  /// peaks (R, ceil(slice.whole / 256)) int32 = the largest absolute value of each row and block of
  /// x (R, slice.count) compute as the bits of a float, what is not finite being the largest; 0
  /// where x has no column.
  virtual void block_peaks(const Tensor& x, const ColumnSlice& slice, const Tensor& peaks) = 0;

  // table (V, D) fp32, token (T) -> y (T, D) fp32. A token outside [0, V) has a row of zeros.
  virtual void embedding(const Tensor& table, const Tensor& token, const Tensor& y) = 0;
  virtual void embedding_backward(const Tensor& dy, const Tensor& token, const Tensor& dtable) = 0;

  /// y (T, D) compute = x (T, D) fp32 * rstd (T) * weight (D). Zhang & Sennrich 2019.
  virtual void rms_norm(const Tensor& x, const Tensor& weight, float eps, const Tensor& y,
                        const Tensor& rstd) = 0;
  /// dy, dx: (T, D) fp32. Adds into dweight, if it is defined.
  virtual void rms_norm_backward(const Tensor& dy, const Tensor& x, const Tensor& weight,
                                 const Tensor& rstd, const Tensor& dx, const Tensor& dweight) = 0;

  /// Rotates the pairs (i, i + width/2) or (2i, 2i + 1) of each group of x (T, W) in place by
  /// position (T) * frequency (width/2) and multiplies them by the magnitude; kInverse rotates
  /// back, which makes it the adjoint. Su et al. 2021.
  virtual void rope(const Tensor& x, const RowGroups& heads, const Tensor& position,
                    const Tensor& frequency, const RopeOptions& options, Direction direction) = 0;

  // RMS norm of G groups of x (T, W) compute, in two steps, between which ranks may sum.
  /// squares (T, G) fp32 = sum of x^2 over each group.
  virtual void group_squares(const Tensor& x, const RowGroups& groups, const Tensor& squares) = 0;
  /// y = x weight / sqrt(squares / count + eps) in the groups of y; the rest of y is left alone.
  virtual void group_norm(const Tensor& x, const RowGroups& groups, const Tensor& squares,
                          float count, float eps, const Tensor& weight, const Tensor& y) = 0;
  /// dots (T, G) fp32 = sum of dy weight x over each group.
  virtual void group_dots(const Tensor& dy, const Tensor& x, const RowGroups& groups,
                          const Tensor& weight, const Tensor& dots) = 0;
  /// dy becomes dx in the groups. Adds into dweight (width), if it is defined.
  virtual void group_norm_backward(const Tensor& dy, const Tensor& x, const RowGroups& groups,
                                   const Tensor& squares, const Tensor& dots, float count,
                                   float eps, const Tensor& weight, const Tensor& dweight) = 0;

  /// The groups of `to` (T, W') become those of `from` (T, W), or these are added to them. Both
  /// have as many of one width; a stride of 0 repeats a source, or sums into a target.
  virtual void copy_groups(const Tensor& from, const RowGroups& source, const Tensor& to,
                           const RowGroups& target, Write write) = 0;

  virtual void clamp(const Tensor& inout, float limit) = 0;  // to [-limit, limit]
  /// dy becomes 0 where x is outside.
  virtual void clamp_backward(const Tensor& dy, const Tensor& x, float limit) = 0;

  /// y (R, N) += bias (G, N) fp32 of the row's group.
  virtual void add_bias(const Tensor& y, const Tensor& offsets, const Tensor& bias) = 0;
  /// dbias (G, N) fp32 += the sum of dy over the rows of each group.
  virtual void bias_backward(const Tensor& dy, const Tensor& offsets, const Tensor& dbias) = 0;

  /// x (R, F) *= sigmoid(logit (R) fp32).
  virtual void gate_rows(const Tensor& x, const Tensor& logit) = 0;
  /// y: what gate_rows made. dy becomes dx; dlogit (R) fp32 is written.
  virtual void gate_rows_backward(const Tensor& dy, const Tensor& y, const Tensor& logit,
                                  const Tensor& dlogit) = 0;

  // Grouped-query attention: query head h reads key head h / (H / Hkv). A row's bits depend on its
  // origin, its range, and the keys and values in it alone. Memory is linear (Dao et al. 2022).
  /// out (T, H, vd); lse (T, H) fp32 is the log-sum-exp of a row's scaled scores. A row without
  /// keys has out 0 and lse -inf. The keys hold every range.
  virtual void attention(const HeadRows& q, const KeyRows& keys, const VisibleKeys& visible,
                         float scale, const Tensor& out, const Tensor& lse) = 0;
  /// The same over those keys alone that there are, for sums: begun (kOverwrite), or taken further
  /// (kAdd). Parts in order of position that end where tiles of keys do give the bits of one call.
  virtual void attention_part(const HeadRows& q, const KeyRows& keys, const VisibleKeys& visible,
                              float scale, const AttentionSums& sums, Write write) = 0;
  /// sums become those over their keys and the keys of `more`: parts that were begun apart, such as
  /// in different stores of keys. Within rounding; the order of the two is fixed.
  virtual void merge_attention(const AttentionSums& more, float scale,
                               const AttentionSums& sums) = 0;
  /// out and lse of sums over all keys.
  virtual void attention_result(const AttentionSums& sums, float scale, const Tensor& out,
                                const Tensor& lse) = 0;
  /// dout as out; out and lse over all keys. Gradients are written, or (fp32) added to: dq what
  /// comes through these keys, dk and dv of these keys what comes from these queries. No forks.
  virtual void attention_backward(const Tensor& dout, const HeadRows& q, const KeyRows& keys,
                                  const VisibleKeys& visible, float scale, const Tensor& out,
                                  const Tensor& lse, const AttentionGradients& gradients,
                                  Write write) = 0;
  /// Lets a key of logit sinks (H) fp32 without a value join each row's softmax: changes out and
  /// lse to what attention would have given. (Xiao et al. 2024; gpt-oss.)
  virtual void add_sinks(const Tensor& sinks, const Tensor& out, const Tensor& lse) = 0;
  /// out, lse: with the sinks. Adds into dsinks (H).
  virtual void sinks_backward(const Tensor& dout, const Tensor& out, const Tensor& lse,
                              const Tensor& sinks, const Tensor& dsinks) = 0;

  // Keys and values in P pages: (P, Hkv, kPageTokens, width), compute.
  /// Group g of each row of `rows` (T, W) becomes the entry of head g at the row's position.
  virtual void store_in_pages(const Tensor& rows, const RowGroups& groups, const PagedRuns& runs,
                              const Tensor& pages) = 0;
  /// As attention, to keys in pages: positions count from the beginning of the row's sequence, and
  /// so do tiles.
  virtual void attention(const HeadRows& q, const KeyPages& keys, const VisibleKeys& visible,
                         float scale, const Tensor& out, const Tensor& lse) = 0;

  /// y (R, F) = silu(gate) * up with gate_up (R, 2F) = [gate | up]. Shazeer 2020. With a limit L >
  /// 0: gate clamped to at most L, up to [-L, L], y = (up + 1) gate sigmoid(1.702 gate) (gpt-oss).
  virtual void swiglu(const Tensor& gate_up, float limit, const Tensor& y) = 0;
  /// dgate_up (R, 2F) from dy (R, F); all of one dtype.
  virtual void swiglu_backward(const Tensor& dy, const Tensor& gate_up, float limit,
                               const Tensor& dgate_up) = 0;

  /// Scores: softmax over the regular candidates, or sigmoid; of a spare: sigmoid(logit - logsumexp
  /// of the regular candidates), the probability that it would have if it alone joined them, or
  /// sigmoid. The choice is by score + bias among the regular candidates of the top groups (by the
  /// sum of their two best, or their best; DeepSeek-V3, section 2.1.2), the lower index winning
  /// ties; with a threshold a token takes no more once its experts' shares reach it.
  virtual void route(const RouteOptions& options, const RouteTensors& tensors) = 0;
  /// weight (T, K) = scale x scores (T, E) of the choice (T, K), if normalised divided by their sum
  /// over the token; 0 where the choice is -1.
  virtual void route_weights(const RouteOptions& options, const Tensor& scores,
                             const Tensor& choice, const Tensor& weight) = 0;
  /// dlogits (T, E), of the gate's, with the choice (T, K) that was weighed held constant. daux
  /// (S, E): the gradient of each token's normalised scores; dz: the factor of logsumexp^2.
  virtual void route_backward(const RouteOptions& options, const RouteTensors& tensors,
                              const Tensor& choice, const Tensor& dweight, const Tensor& daux,
                              float dz, const Tensor& dlogits) = 0;

  /// The gradient of the auxiliary loss by each token's normalised scores: daux (S, E) fp32 = aux
  /// (regular n_e / C) / tokens in double, with n_e of the C choices (T, K) of the segment's
  /// tokens, -1 counting for none, and 0 where n_e is. segment (T) int32; undefined: 0. With load
  /// (E) fp32 it is aux (regular load_e) / tokens.
  virtual void aux_gradient(const Tensor& choice, const Tensor& segment, const Tensor& load,
                            const AuxScale& scale, const Tensor& daux) = 0;

  // The dispatch plan of a micro-batch (routing/dispatch_plan.h), where no choice is rerouted.
  /// target (T, K) int32 = the choice (T, K), or -1 where it is dropped: of an expert's choices the
  /// `slots` of the largest weight (T, K) fp32 stay, the lower place winning ties; 0: all do.
  /// counts (3, E) int32: choices of each expert, of these dropped, and rows.
  virtual void drop_overflow(const Tensor& choice, const Tensor& weight, std::int64_t slots,
                             const Tensor& target, const Tensor& counts) = 0;
  /// Rows for the targets (T, K), sorted by the place of the expert in `order` (E), then by token:
  /// position (T, K) int32, the row of each or -1; source (R) int32, the token of each row, and -1
  /// for those of R <= T K that are too many; offsets (E + 1) int32, the first row of each expert
  /// in this order.
  virtual void lay_rows(const Tensor& target, const Tensor& order, const Tensor& position,
                        const Tensor& source, const Tensor& offsets) = 0;

  /// y[r] = x[index[r]]; x (T, D), index (R), y (R, D), one dtype. A row of index -1 is left alone.
  virtual void gather_rows(const Tensor& x, const Tensor& index, const Tensor& y) = 0;
  /// y (T, D) fp32 = sum over k of weight[t,k] rows[position[t,k]]; position -1 counts as zero. An
  /// undefined weight is 1.
  virtual void combine_rows(const Tensor& rows, const Tensor& position, const Tensor& weight,
                            const Tensor& y) = 0;
  /// drows[position[t,k]] = weight[t,k] dy[t]; dweight[t,k] = dy[t] . rows[position[t,k]].
  virtual void combine_rows_backward(const Tensor& dy, const Tensor& rows, const Tensor& position,
                                     const Tensor& weight, const Tensor& drows,
                                     const Tensor& dweight) = 0;

  /// For each row of logits (R, V) fp32: stats (R, 3) = the largest logit, the sum of exp(logit -
  /// largest), and the target's logit (0 if target is outside [0, V)); best (R) = index of the
  /// largest. V may be a share of a vocabulary.
  virtual void softmax_stats(const Tensor& logits, const Tensor& target, const Tensor& stats,
                             const Tensor& best) = 0;
  /// divergence (R) fp32 = sum over v of p (log p - log q) - p + q, in nats, which over a whole
  /// vocabulary is the Kullback-Leibler divergence D(p || q). log p = reference (R, V) fp32 -
  /// log_sums (R, 2)[0] and log q = logits - log_sums[1]; all logits finite. No term is negative,
  /// and errors of the sums, and of differences of logits, count in second order alone. V may be a
  /// share of a vocabulary.
  virtual void divergence(const Tensor& reference, const Tensor& logits, const Tensor& log_sums,
                          const Tensor& divergence) = 0;
  /// dlogits (R, V) compute = weight (R) fp32 (softmax - one-hot) with the stats of the whole
  /// vocabulary, 0 where the target is -1. A target of V or more is counted, but lies in another
  /// share. spread (R) fp32 = sum of exp(x - largest) (x - largest) over these logits, 0 where the
  /// target is -1: the row's entropy is log(sum of exp) - spread / sum of exp, over all shares.
  virtual void cross_entropy_backward(const Tensor& logits, const Tensor& target,
                                      const Tensor& stats, const Tensor& weight,
                                      const Tensor& dlogits, const Tensor& spread) = 0;

  /// Updates each value and both of its moments in place; the copy gets the new value rounded. No
  /// two of them share memory that is written.
  virtual void adamw(std::span<const AdamWTensors> tensors) = 0;

 protected:
  void count_waits(int waits = 1) { waits_ += waits; }

 private:
  std::int64_t waits_ = 0;
};

/// threads: how many OpenMP threads this rank may use. matrix_units: of the processor, if it has
/// them; a product through them may depend on how many rows it has.
std::unique_ptr<Backend> make_cpu_backend(int threads, bool matrix_units = true);
/// Throws kUsage in a build without CUDA.
std::unique_ptr<Backend> make_cuda_backend(int device);
bool cuda_is_built_in();

}  // namespace moesaic
