#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tensor/dtype.h"

namespace moesaic::config {

// One struct for each section; the defaults are the documented ones. Strings are parsed once, in
// options.cpp; everything else reads these structs.

enum class Score { kSoftmax, kSigmoid };
enum class GroupScore { kTop2, kMax };
enum class QkNorm { kNone, kHead, kProjection };
enum class RopeScaling { kNone, kLinear, kYarn };
enum class Balance { kNone, kAuxLoss, kBias };
enum class Force { kNone, kBalanced, kHot, kRotating };
enum class Overflow { kDrop, kNext, kSpare };
enum class AuxScope { kSequence, kMicroBatch, kBatch };
enum class Placing { kBlocks, kLoad };
enum class Content { kAuto, kAll, kTrained };
enum class Export { kNone, kHf, kPeft };
enum class ConvertTo { kAuto, kHf, kMoesaic, kPeft };
enum class PoolAction { kAdd, kRemove, kClone, kPromote };
enum class Schedule { kCosine, kLinear, kConstant, kWsd };
enum class PipelineSchedule { k1f1b, kInterleaved };
enum class Device { kCpu, kCuda };
enum class CollectivesBy { kNccl, kStaged };
enum class MpiThreads { kMultiple, kSerialized };
enum class OnError { kStop, kSkip };
enum class Truncate { kNone, kLeft };
enum class Samples { kStream, kDocuments };
enum class TooLong { kDrop, kEnd };
enum class ReferenceDetail { kNone, kLayers, kExperts, kBoth };
constexpr bool includes(ReferenceDetail wanted, ReferenceDetail detail) {
  return wanted == detail || wanted == ReferenceDetail::kBoth;
}
enum class Tri { kAuto, kOff, kOn };
enum class LogLevel { kDebug, kInfo, kWarn, kError };

struct Model {
  std::string path;
  std::string adapter = {};  // a PEFT folder, or a checkpoint with adapters; empty: none
  std::int64_t layers = 4, d_model = 256, heads = 4;
  std::int64_t kv_heads = 0;    // 0: heads
  std::int64_t head_dim = 0;    // 0: d_model / heads
  std::int64_t d_ff = 0;        // of dense layers; 0: 4 d_model
  std::int64_t vocab_size = 0;  // 0: the corpus's
  std::int64_t max_seq = 2048;
  double rope_theta = 10000.0, norm_eps = 1e-5;
  bool tie_embeddings = false;
  std::int64_t dense_layers = 0;  // the first ones
  std::int64_t moe_every = 1;     // of the others, every N-th layer of the model has experts
  std::vector<std::int64_t> dense_at = {};  // and these have none either
  std::int64_t experts = 16, shared_experts = 2, top_k = 2;
  std::int64_t expert_d_ff = 0;  // 0: d_model
  std::int64_t shared_d_ff = 0;  // 0: shared_experts expert_d_ff
  bool shared_gate = false;
  double swiglu_limit = 0.0;  // 0: plain SwiGLU
  bool expert_bias = false;

  bool qkv_bias = false, output_bias = false;
  QkNorm qk_norm = QkNorm::kNone;
  double clip_qkv = 0.0;  // 0: not clipped
  bool sinks = false;
  std::int64_t sliding_window = 0;               // 0: all keys
  std::vector<std::int64_t> window_layers = {};  // empty: all
  std::int64_t q_lora_rank = 0;                  // 0: queries are one product
  std::int64_t kv_lora_rank = 0;  // 0: grouped-query attention, else latent attention
  std::int64_t qk_nope_head_dim = 0, qk_rope_head_dim = 0, v_head_dim = 0;  // of latent attention

  bool rope_interleave = false;
  RopeScaling rope_scaling = RopeScaling::kNone;
  double rope_factor = 1.0;
  std::int64_t rope_original_max_seq = 0;
  double rope_beta_fast = 32.0, rope_beta_slow = 1.0;
  double rope_attention_factor = 0.0;                   // 0: derived
  double rope_mscale = 0.0, rope_mscale_all_dim = 0.0;  // 0: none
  bool rope_truncate = true;
};

struct Router {
  Score score = Score::kSoftmax;
  bool task_gate = false;
  std::int64_t candidates = 0;  // experts that the first layer of the gate leaves over; 0: all
  bool normalize = true;
  double scale = 1.0;
  bool gate_bias = false;
  std::int64_t groups = 1, top_groups = 1;
  GroupScore group_score = GroupScore::kTop2;
  double temperature = 1.0;
  double threshold = 0.0;        // of a token's probability; 0: always top_k experts
  std::int64_t capacity = 0;     // slots per expert and micro-batch; 0: dropless
  double capacity_factor = 0.0;  // or slots = ceil(factor tokens top_k / experts)
  Overflow overflow = Overflow::kDrop;
  std::int64_t spare_experts = 0;
  std::int64_t gradient_buffer = 0;  // tokens that an expert processes for each update; 0: off
  Balance balance = Balance::kAuxLoss;
  double aux_loss = 0.01, z_loss = 0.0, bias_rate = 0.001;
  AuxScope aux_scope = AuxScope::kMicroBatch;
  bool eval_capacity = false;
  Force force = Force::kNone;  // for measurements
  std::int64_t tasks = 0;      // 0: the corpus's
};

/// A name and its share of a whole; shares need not sum to 1.
using NamedWeight = std::pair<std::string, double>;

/// Numbers of samples in the order in which a run draws them; end is not among them.
struct SampleRange {
  std::int64_t first = 0, end = 0;
  bool operator==(const SampleRange&) const = default;
};

struct Data {
  std::vector<std::string> corpus, eval_corpus;
  std::vector<double> corpus_weights;     // empty: by size
  std::vector<NamedWeight> task_weights;  // empty: by size; tasks not named are never drawn
  std::int64_t seq_len = 512;
  Samples samples = Samples::kStream;
  TooLong truncate = TooLong::kDrop;  // documents with more than seq_len + 1 tokens
  std::int64_t seed = 1;
  std::vector<SampleRange> skip_samples;  // ascending; never drawn
};

struct Eval {
  std::int64_t every = 0;   // steps; 0: at the end only
  std::int64_t tokens = 0;  // 0: all
};

struct Parallel {
  std::int64_t tp = 1, pp = 1, ep = 1, cp = 1;
  std::int64_t zero = 0;       // 1: optimizer state is split over the ranks that hold the same
  bool sequence = false;       // split rows over tp outside of products
  std::int64_t expert_tp = 0;  // 1: experts are whole, spread over ep x tp; 0: tp
  PipelineSchedule schedule = PipelineSchedule::k1f1b;
  std::int64_t virtual_stages = 1;  // chunks of layers on each stage
  Placing placement = Placing::kBlocks;
};

struct Train {
  std::int64_t steps = 0, tokens = 0;       // the first reached, also of epochs; 0: no limit
  double epochs = 0.0;                      // of the corpora's samples; 0: no limit
  std::int64_t epoch_samples = 0;           // no key: set once the samples are counted
  std::int64_t batch = 8, micro_batch = 8;  // samples
  double lr = 3e-4, min_lr = 3e-5;
  std::int64_t warmup = 100;
  std::int64_t decay_steps = 0;  // 0: steps
  Schedule schedule = Schedule::kCosine;
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0.1, clip = 1.0;
  std::vector<std::string> trainable = {};  // patterns of public names; empty: all
  std::vector<NamedWeight> lr_scale = {};   // of patterns
  DType moments = DType::kF32;              // fp32 or bf16
  bool recompute = false;                   // blocks, in backward
  double spike = 1.5;                       // of the median loss; 0: not watched
  std::int64_t rollbacks = 0;
  std::int64_t seed = 1;
};

/// Low-rank adapters (LoRA).
struct Adapter {
  std::int64_t rank = 0;  // 0: none
  double alpha = 0.0;     // 0: 2 rank
  std::vector<std::string> targets = {"q_proj", "v_proj"};
  bool rslora = false;
  std::int64_t seed = 1;
};

struct Checkpoint {
  std::string dir;
  std::int64_t every = 0;       // steps; 0: by time only
  double every_minutes = 30.0;  // 0: by steps only
  std::int64_t keep = 2, keep_every = 0;
  std::string resume = "auto";  // auto, none or a path
  std::vector<std::string> allow;
  Content content = Content::kAuto;
  Export exported = Export::kNone;
};

/// Steps first, first + every, ... up to last.
struct StepRange {
  std::int64_t first = 1, last = 1, every = 1;
  bool operator==(const StepRange&) const = default;
};

struct Trace {
  std::string path;
  std::int64_t every = 1;          // steps per record
  double flush = 10.0;             // seconds
  std::vector<StepRange> routing;  // steps whose routing is recorded token by token
};

struct Tokenize {
  std::vector<std::string> input;
  std::string output;
  std::string tokenizer = "byte";  // byte, train or a path
  std::int64_t vocab_size = 8192;
  std::int64_t shards = 0;        // 0: by size
  std::vector<std::string> task;  // one name, or one for each input
  bool compress = false;
  double max_document = 256ULL << 20U;  // bytes of one text
  double holdout = 0.0;
  Tri bos = Tri::kAuto, eos = Tri::kAuto, unique = Tri::kAuto;
  std::string text_field = "text", id_field = "id", task_field = "task";
  OnError on_error = OnError::kStop;
};

struct ScoreJob {
  std::string output;
  std::string shards;       // I/N
  std::int64_t window = 0;  // 0: model.max_seq
  std::int64_t stride = 0;  // 0: window / 2
  std::int64_t batch = 0;   // windows at once; 0: as many as fit into kScoreTokens
  Truncate truncate = Truncate::kNone;
  std::string reference;  // bf16 or fp32: the same model so; else a path; empty: none
  ReferenceDetail reference_detail = ReferenceDetail::kNone;
};

struct GenerateJob {
  std::string output;  // X.h5
  std::int64_t max_tokens = 128;
  double temperature = 0.0;  // 0: the argmax
  std::int64_t top_k = 0;    // 0: all
  double top_p = 1.0;
  double min_p = 0.0;
  std::vector<std::string> stop;
  std::int64_t seed = 1;
  std::int64_t batch = 0;  // sequences at once; 0: as many as the cache holds, at most kMostAtOnce
  double cache = 4.0 * (1ULL << 30U);  // bytes
  std::int64_t prefill = 2048;         // tokens of prompts in one step

  static constexpr std::int64_t kMostAtOnce = 256;
};

/// The most continuations at once on each replica.
constexpr std::int64_t sequences_at_once(const GenerateJob& job) {
  return job.batch > 0 ? job.batch : GenerateJob::kMostAtOnce;
}

struct ExpertsJob {
  std::int64_t count = 1;
  std::vector<std::string> source;  // numbers, or "busiest"; empty: by load
};

struct ConvertJob {
  ConvertTo to = ConvertTo::kAuto;
  std::optional<DType> dtype;  // none: bf16 of a folder, fp32 of a checkpoint
  std::optional<DType> quantize;
  std::vector<std::string> calibration;  // corpora
  bool check = true;                     // that the copy computes what the original does
  bool merge = true;                     // adapters are added to the weights
};

/// Tokens of a batch of score, unless one window is longer.
constexpr std::int64_t kScoreTokens = 4096;

struct Plan {
  std::int64_t ranks = 1, ranks_per_node = 1;
  double memory_per_node = 0.0;  // bytes; 0: do not judge
  double flops = 0.0;            // FLOP/s that a rank's products reach; 0: do not predict
  double network = 0.0;          // bytes/s that a rank sends; 0: as if at once
  std::string job = "train";
};

struct Run {
  std::string dir;
  std::string control;  // empty: none
  Device device = Device::kCpu;
  CollectivesBy collectives = CollectivesBy::kNccl;
  DType precision = DType::kBf16;
  std::optional<DType> quantize;
  std::int64_t threads = 0;  // 0: this rank's share of its cores
  LogLevel log_level = LogLevel::kInfo;
  double max_wall = -1.0;  // seconds; negative: auto
  // Longest time without progress, seconds; negative: auto.
  double step_timeout = -1.0, load_timeout = -1.0, save_timeout = -1.0;
  MpiThreads mpi_threads = MpiThreads::kMultiple;
  std::int64_t compare_replicas = 100;  // steps; 0: never
  Tri progress = Tri::kAuto;
  bool deterministic = false;
};

struct Config {
  // Out of line: they are long, and many files copy a config.
  Config();
  Config(const Config& other);
  Config(Config&& other) noexcept;
  Config& operator=(const Config& other);
  Config& operator=(Config&& other) noexcept;
  ~Config();

  Model model;
  Router router;
  Data data;
  Eval eval;
  Parallel parallel;
  Train train;
  Adapter adapter;
  Checkpoint checkpoint;
  Trace trace;
  Tokenize tokenize;
  ScoreJob score;
  GenerateJob generate;
  ExpertsJob experts;
  ConvertJob convert;
  Plan plan;
  Run run;
};

}  // namespace moesaic::config
