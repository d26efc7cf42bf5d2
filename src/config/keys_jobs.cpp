#include "config/section.h"

namespace moesaic::config {
namespace {

std::vector<Key> tokenize_keys() {
  const Section s("tokenize", &Config::tokenize, "tokenize");
  return {
      s.texts("input", &Tokenize::input, "list of paths",
              "Text files, JSONL files (.jsonl, .json, .ndjson; also packed by gzip or zstd) or "
              "folders of them. A line of JSONL is text (also with spans), context and "
              "continuation, input_ids and labels, or a prompt."),
      s.text("output", &Tokenize::output, "path",
             "Folder for the corpus; with a holdout its train/ and heldout/."),
      s.text("tokenizer", &Tokenize::tokenizer, "byte|train|path",
             "byte: one token for each byte; train: make a SentencePiece vocabulary from the "
             "input; or a SentencePiece .model, a tokenizer.json or a Hugging Face folder."),
      s.integer("vocab_size", &Tokenize::vocab_size, between(1, 1e9), "tokens",
                "Size of the vocabulary that tokenizer = train makes."),
      s.integer("shards", &Tokenize::shards, between(0, 99999), "files",
                "Number of shards. 0: by size."),
      s.texts("task", &Tokenize::task, "list of names",
              "Task of the documents: one name, or one for each input."),
      s.boolean("compress", &Tokenize::compress, "Deflate the tokens in the shards."),
      s.bytes("max_document", &Tokenize::max_document,
              "Longest text of one document, or line of JSONL; a longer one is a bad document "
              "(on_error). Memory grows with it."),
      s.number("holdout", &Tokenize::holdout, from_to_below(0, 1), "",
               "Share of the documents, chosen by a hash of their id, that is held out."),
      s.choice("bos", &Tokenize::bos,
               "Begin every document with bos; one with spans or ids only if it does not yet."),
      s.choice("eos", &Tokenize::eos,
               "End every document with eos; one with spans or ids only if it does not yet. auto: "
               "for text alone, not for context and continuation, spans, ids or prompts."),
      s.choice("unique", &Tokenize::unique,
               "Keep only the first of documents with equal text and spans. auto: not of context "
               "and continuation, or prompts."),
      s.text("text_field", &Tokenize::text_field, "name", "JSONL field of the text."),
      s.text("id_field", &Tokenize::id_field, "name", "JSONL field of the document's id."),
      s.text("task_field", &Tokenize::task_field, "name", "JSONL field of the task's name."),
      s.choice("on_error", &Tokenize::on_error,
               "What to do at a bad JSONL line or a document that is too long."),
  };
}

std::vector<Key> score_keys() {
  const Section s("score", &Config::score, "score");
  return {
      s.text("output", &ScoreJob::output, "path",
             "X.h5 for one file, else a folder with one file for each corpus shard. Empty: "
             "RUN.DIR/scores.h5."),
      s.text("shards", &ScoreJob::shards, "I/N",
             "Take every N-th shard of the corpus from shard I = 0..N-1; needs a folder as "
             "output. Empty: all."),
      s.integer("window", &ScoreJob::window, between(0, 1e8), "tokens",
                "Longest piece of a document given to the model. 0: model.max_seq."),
      s.integer("stride", &ScoreJob::stride, between(0, 1e8), "tokens",
                "New tokens of each further window of a long document. 0: window / 2."),
      s.integer("batch", &ScoreJob::batch, between(0, 1e6), "windows",
                "Most windows that are computed at once. 0: as many as fit into 4096 tokens, or "
                "one."),
      s.choice("truncate", &ScoreJob::truncate,
               "left: score only the last window of a long document."),
      only(
          s.text(
              "reference", &ScoreJob::reference, "bf16|fp32|path",
              "Compare each token's probabilities with those of a second model in memory: the same "
              "one with all weights in this type (./bf16 is a path), or that of a checkpoint or "
              "folder, such as the original of a quantized one. Empty: none."),
          "score plan"),
      s.choice("reference_detail", &ScoreJob::reference_detail,
               "What else to find out. layers: the divergence with one layer's weights quantized "
               "and all others as in the reference, each layer in turn, which takes a pass of the "
               "reference for each; experts: the error of each expert's output on the tokens that "
               "it gets in the reference, which computes the experts twice."),
  };
}

std::vector<Key> generate_keys() {
  const Section s("generate", &Config::generate, "generate");
  return {
      s.text("output", &GenerateJob::output, "path",
             "X.h5 for tokens and log-probabilities; the texts go to X.jsonl beside it. Empty: "
             "RUN.DIR/generations.h5."),
      s.integer("max_tokens", &GenerateJob::max_tokens, between(1, 1e8), "tokens",
                "Longest continuation. It ends earlier at eos, at a stop string, and where the "
                "model's max_seq is reached."),
      s.number("temperature", &GenerateJob::temperature, at_least(0), "",
               "Divides the logits before a token is drawn. 0: always the argmax."),
      s.integer("top_k", &GenerateJob::top_k, between(0, 1e9), "tokens",
                "Draw from so many of the most probable tokens. 0: from all."),
      s.number("top_p", &GenerateJob::top_p, between(0, 1), "",
               "Then draw from the smallest set of the most probable tokens whose probability "
               "reaches this. 1: from all."),
      s.number("min_p", &GenerateJob::min_p, between(0, 1), "",
               "Then draw from those that have at least this share of the argmax's "
               "probability."),
      s.texts("stop", &GenerateJob::stop, "list of texts",
              "A continuation ends at the first of these, and its text before it. A line break is "
              "written \"\\n\", with the quotes; in a shell '\"\\n\"'."),
      s.integer(
          "seed", &GenerateJob::seed, between(0, 9e15), "",
          "Seed of the draws, with the document's number and the token's position: the same tokens "
          "for every batch and on any ranks."),
      only(s.integer("batch", &GenerateJob::batch, between(0, 1e6), "sequences",
                     "Continuations at once on each replica of the model. 0: as many as "
                     "generate.cache holds, at most 256."),
           "generate plan"),
      only(s.bytes("cache", &GenerateJob::cache,
                   "Memory of each rank for the keys and values of sequences. Prompts that begin "
                   "alike share it."),
           "generate plan"),
      only(s.integer("prefill", &GenerateJob::prefill, between(1, 1e8), "tokens",
                     "Tokens of prompts that a step reads beside one token of each running "
                     "continuation."),
           "generate plan"),
  };
}

std::vector<Key> experts_keys() {
  const Section s("experts", &Config::experts, "experts");
  return {
      s.integer("count", &ExpertsJob::count, between(0, 1e5), "experts",
                "Experts to add, remove, clone or promote in each MoE layer."),
      s.texts("source", &ExpertsJob::source, "list of numbers, or busiest",
              "The expert to clone, or those to remove or promote (then count is not read). Empty: "
              "in each layer the busiest to clone or promote, the least loaded to remove."),
  };
}

std::vector<Key> convert_keys() {
  const Section s("convert", &Config::convert, "convert");
  return {
      s.choice("to", &ConvertJob::to,
               "What to make: a Hugging Face folder (hf), a checkpoint (moesaic), or a PEFT folder "
               "of the checkpoint's adapters (peft). auto: hf or moesaic, what IN is not; with "
               "convert.quantize a checkpoint."),
      s.dtype("dtype", &ConvertJob::dtype, "auto", {DType::kBf16, DType::kF16, DType::kF32},
              "Type of the tensors, or with convert.quantize of those that are not quantized. "
              "auto: bf16 in a Hugging Face folder, fp32 in a checkpoint."),
      s.dtype("quantize", &ConvertJob::quantize, "none", {DType::kInt8, DType::kInt4},
              "Store the weights of products in eight bits, or in four and a half, in a "
              "checkpoint for score and generate, which keep them so (run.quantize)."),
      s.texts("calibration", &ConvertJob::calibration, "list of paths",
              "Corpora that the model reads some of, so that int4 errs least in the columns of "
              "weights that matter most. Empty: all columns count alike."),
      s.boolean("merge", &ConvertJob::merge,
                "Add adapters to the weights, in fp32 and with one rounding. 0: a checkpoint keeps "
                "them apart."),
      s.boolean("check", &ConvertJob::check,
                "Load the original and the copy and compare what they compute. 0: do not, where "
                "memory holds neither."),
  };
}

std::vector<Key> plan_keys() {
  const Section s("plan", &Config::plan, "plan");
  return {
      s.integer("ranks", &Plan::ranks, between(1, 1e7), "ranks", "Ranks to plan for."),
      s.integer("ranks_per_node", &Plan::ranks_per_node, between(1, 1e5), "ranks",
                "Ranks that share the memory of one node."),
      s.bytes("memory_per_node", &Plan::memory_per_node,
              "Memory of one node, to judge whether the job fits. 0: do not judge."),
      s.number(
          "flops", &Plan::flops, at_least(0), "FLOP/s",
          "Rate of a rank's matrix products, to predict the time of a step. 0: no prediction."),
      s.bytes("network", &Plan::network,
              "Bytes that a rank sends in a second, for the same. 0: sending takes no time."),
      s.text("job", &Plan::job, "train|score|generate", "The job to plan."),
  };
}

std::vector<Key> run_keys() {
  const Section s("run", &Config::run, "tokenize train score generate experts convert");
  return {
      only(s.text("dir", &Run::dir, "path",
                  "Folder of the run: sets trace.path, checkpoint.dir, score.output and "
                  "generate.output, and gets config.cfg (of other jobs score.cfg, generate.cfg) "
                  "and log.txt."),
           "train score generate"),
      only(s.text("control", &Run::control, "path",
                  "File that changes the experts of a running job, looked for between steps: lines "
                  "such as clone --experts.count 2. It is renamed to .done, or to .refused. Empty: "
                  "none."),
           "train"),
      only(s.choice("device", &Run::device, "Where the model is computed."),
           "train score generate convert plan"),
      only(s.choice("collectives", &Run::collectives,
                    "How tensors go from GPU to GPU with run.device = cuda. nccl wants a GPU for "
                    "each rank; staged: through the memory of the hosts, which is slow, but ranks "
                    "may share a GPU."),
           "train score generate convert"),
      only(s.dtype("precision", &Run::precision, {DType::kF32, DType::kBf16},
                   "Type of activations and matrix products; weights, sums and the router stay "
                   "fp32."),
           "train score generate convert plan"),
      only(s.dtype("quantize", &Run::quantize, "none", {DType::kInt8, DType::kInt4},
                   "Keep the weights of products in eight bits, or in four and a half, made as "
                   "they are read; activations are rounded to eight bits for each product. "
                   "Embedding, router, norms and biases stay as they are. A checkpoint of "
                   "convert.quantize sets it."),
           "score generate plan"),
      s.integer("threads", &Run::threads, between(0, 4096), "threads",
                "Threads of each rank. 0: OMP_NUM_THREADS, else SLURM_CPUS_PER_TASK, else this "
                "rank's share of its cores."),
      s.choice("log_level", &Run::log_level, "Least severe message that is printed."),
      only(s.auto_duration("max_wall", &Run::max_wall,
                           "Stop well, with a checkpoint, before so much time has passed. auto: "
                           "the end of the Slurm job, else no limit."),
           "train score generate"),
      only(s.auto_duration(
               "step_timeout", &Run::step_timeout,
               "End the job, and name the rank that the others wait for, if a step or an iteration "
               "of "
               "evaluation takes longer. auto: 10 x the median step, at least 10 min; 10 min for "
               "iterations and the first two steps."),
           "train score generate experts convert"),
      only(s.auto_duration("load_timeout", &Run::load_timeout,
                           "The same for loading: longest time until the next tensor, file or "
                           "check. auto: 10 min."),
           "train score generate experts convert"),
      only(s.auto_duration("save_timeout", &Run::save_timeout,
                           "The same for saving: longest time until the next tensor is written. "
                           "auto: 1 h."),
           "train score generate experts convert"),
      s.choice("mpi_threads", &Run::mpi_threads,
               "What is asked of MPI. serialized: for MPI libraries or networks that are slow or "
               "unreliable with MPI_THREAD_MULTIPLE; the watchdog then ends a hanging job without "
               "asking other ranks whom they wait for."),
      only(s.integer("compare_replicas", &Run::compare_replicas, at_least(0), "steps",
                     "Every so many steps, ranks that hold the same parameters compare them bit "
                     "by bit, to find damaged memory. 0: never."),
           "train"),
      only(s.boolean("deterministic", &Run::deterministic,
                     "The same bits for every batch and on any ranks of dp, ep and pp: products in "
                     "bf16 leave out the processor's matrix units, where it has them, whose sums "
                     "depend on the number of rows, and are slower then; elsewhere it costs "
                     "nothing."),
           "score generate"),
      s.choice("progress", &Run::progress,
               "Overwrite one line of progress. auto: on a terminal only."),
  };
}

}  // namespace

std::vector<Key> job_keys() {
  std::vector<Key> all = tokenize_keys();
  for (const auto& part :
       {score_keys(), generate_keys(), experts_keys(), convert_keys(), plan_keys(), run_keys()}) {
    all.insert(all.end(), part.begin(), part.end());
  }
  return all;
}

}  // namespace moesaic::config
