#include "config/section.h"

namespace moesaic::config {
namespace {

std::vector<Key> eval_keys() {
  const Section s("eval", &Config::eval, "train");
  return {
      s.integer("every", &Eval::every, at_least(0), "steps",
                "Evaluate on data.eval_corpus every so many steps. 0: at the end only."),
      s.integer("tokens", &Eval::tokens, at_least(0), "tokens",
                "Tokens of each evaluation. 0: the whole corpus."),
  };
}

std::vector<Key> parallel_keys() {
  const Section s("parallel", &Config::parallel, "train score generate plan experts convert");
  return {
      s.integer("tp", &Parallel::tp, between(1, 1e6), "ranks",
                "Tensor-parallel ranks: they share out the heads, hidden widths and vocabulary of "
                "every layer. A divisor of model.heads."),
      s.integer("pp", &Parallel::pp, between(1, 1e6), "ranks",
                "Pipeline stages: they share out the layers."),
      s.integer("ep", &Parallel::ep, between(1, 1e6), "ranks",
                "Ranks that share out the experts, at most model.experts. The other ranks "
                "are data-parallel replicas: dp = ranks / (tp x pp x cp x ep)."),
      s.integer(
          "cp", &Parallel::cp, between(1, 1e6), "ranks",
          "Ranks that share the rows of each micro-batch, and hold the same weights: for long "
          "contexts in train and score. The split is even where rows are a multiple of 128 cp."),
      s.integer(
          "expert_tp", &Parallel::expert_tp, between(0, 1e6), "ranks",
          "Ranks of tp that split each expert. 0: all of them; 1: none, experts are whole and "
          "spread over ep x tp (for many small experts)."),
      s.boolean("sequence", &Parallel::sequence,
                "With tp: each rank keeps its share of the rows outside of the layers' products, "
                "which saves memory for the same traffic."),
      only(s.integer("zero", &Parallel::zero, between(0, 1), "",
                     "1: the optimizer's state is split over the ranks that hold the same "
                     "parameters (ZeRO stage 1). 0: each has all of it."),
           "train plan experts"),
      s.choice("schedule", &Parallel::schedule,
               "Order of forward and backward in a pipeline; interleaved gives each stage "
               "virtual_stages runs of layers, for less waiting."),
      s.integer("virtual_stages", &Parallel::virtual_stages, between(1, 1e5), "",
                "Runs of layers on each stage of an interleaved pipeline."),
      only(s.choice("placement", &Parallel::placement,
                    "Which experts a rank gets. blocks: neighbours by number; load: by the load "
                    "that the checkpoint has measured, so that ranks have equal work."),
           "train score generate experts"),
  };
}

std::vector<Key> loop_keys() {
  const Section s("train", &Config::train, "train plan");
  return {
      s.integer(
          "steps", &Train::steps, at_least(0), "steps",
          "Stop after so many steps, at the first limit reached. 0: no limit; then train.tokens "
          "or train.epochs is required."),
      s.integer("tokens", &Train::tokens, at_least(0), "tokens",
                "Stop after so many tokens. 0: no limit. Not with data.samples=documents."),
      s.number("epochs", &Train::epochs, between(0, 1e6), "",
               "Stop after so many times the samples that can be drawn, rounded up to whole steps. "
               "0: no limit."),
      s.integer("batch", &Train::batch, between(1, 1e7), "samples",
                "Samples of one step over all ranks, a multiple of micro_batch."),
      s.integer("micro_batch", &Train::micro_batch, between(1, 1e7), "samples",
                "Samples that one replica (tp x pp x cp ranks) computes at a time. Part of the "
                "answer: capacity is counted for each micro-batch."),
      only(s.number("lr", &Train::lr, above(0), "", "Peak learning rate."), "train"),
      only(s.number("min_lr", &Train::min_lr, at_least(0), "",
                    "Learning rate at the end of the decay, at most lr."),
           "train"),
      only(s.integer("warmup", &Train::warmup, at_least(0), "steps",
                     "Steps over which the learning rate rises linearly from 0 to lr."),
           "train"),
      only(s.integer("decay_steps", &Train::decay_steps, at_least(0), "steps",
                     "Step at which the learning rate reaches min_lr. 0: the last step."),
           "train"),
      only(s.choice("schedule", &Train::schedule,
                    "Course of the learning rate after the warm-up; wsd holds lr and decays at "
                    "the end."),
           "train"),
      only(s.number("beta1", &Train::beta1, from_to_below(0, 1), "",
                    "AdamW: decay of the mean of the gradient."),
           "train"),
      only(s.number("beta2", &Train::beta2, from_to_below(0, 1), "",
                    "AdamW: decay of the mean of its square."),
           "train"),
      only(s.number("eps", &Train::eps, above(0), "", "AdamW: added to the denominator."), "train"),
      only(s.number("weight_decay", &Train::weight_decay, at_least(0), "",
                    "AdamW: decay of matrices; norms and biases have none."),
           "train"),
      only(s.number("clip", &Train::clip, at_least(0), "",
                    "Largest L2 norm of the whole gradient. 0: never clip."),
           "train"),
      s.texts(
          "trainable", &Train::trainable, "list of patterns",
          "What is trained: globs of tensors' names (* also stands for dots), all, head, last:N "
          "(blocks), router, adapter; ! excludes. Empty: all. What is frozen has neither "
          "gradient nor moments."),
      only(s.weights("lr_scale", &Train::lr_scale,
                     "Factors of the learning rate, for such patterns: PATTERN:X. The last that "
                     "matches counts."),
           "train"),
      s.dtype("moments", &Train::moments, {DType::kF32, DType::kBf16},
              "Format of AdamW's two moments. bf16 halves them, and suits a beta2 up to 0.99."),
      s.boolean("recompute", &Train::recompute,
                "Keep the input of each block alone and compute the rest again in backward: less "
                "memory for a third more work."),
      only(s.number("spike", &Train::spike, at_least(0), "",
                    "A loss above so many times the median of the last 32 steps is a spike: an "
                    "event names its samples. 0: not watched."),
           "train"),
      only(s.integer("rollbacks", &Train::rollbacks, between(0, 1000), "",
                     "How often a job by itself goes back to the newest checkpoint after a spike, "
                     "or after numbers that went bad, and leaves out the samples since then."),
           "train"),
      only(s.integer("seed", &Train::seed, at_least(0), "", "Seed of the initial weights."),
           "train"),
  };
}

std::vector<Key> adapter_keys() {
  const Section s("adapter", &Config::adapter, "train plan");
  return {
      s.integer("rank", &Adapter::rank, between(0, 1e5), "",
                "Rank of low-rank adapters (LoRA): y = W x + alpha / rank B A x. 0: none."),
      s.number("alpha", &Adapter::alpha, at_least(0), "",
               "Numerator of the adapters' scale. 0: twice the rank."),
      s.texts("targets", &Adapter::targets, "list of names",
              "Products that have one: last parts of tensors' names (q_proj), globs, experts, "
              "shared_experts, or all-linear (not the router's gate, which `gate` names)."),
      s.boolean("rslora", &Adapter::rslora, "Divide alpha by the root of the rank instead."),
      s.integer("seed", &Adapter::seed, at_least(0), "", "Seed of the adapters' first values."),
  };
}

std::vector<Key> checkpoint_keys() {
  const Section s("checkpoint", &Config::checkpoint, "train");
  return {
      s.text("dir", &Checkpoint::dir, "path",
             "Folder of the checkpoints. Empty: RUN.DIR/checkpoints, or none without run.dir."),
      s.integer("every", &Checkpoint::every, at_least(0), "steps",
                "Save every so many steps. 0: by time only. The last step is always saved."),
      s.number(
          "every_minutes", &Checkpoint::every_minutes, at_least(0), "min",
          "Save when so many minutes have passed since the last save; where Slurm does not run the "
          "job, for the first time after one. 0: by steps only."),
      s.integer("keep", &Checkpoint::keep, at_least(1), "checkpoints",
                "Newest checkpoints to keep."),
      s.integer("keep_every", &Checkpoint::keep_every, at_least(0), "steps",
                "Also keep those of a multiple of so many steps. 0: none."),
      s.text("resume", &Checkpoint::resume, "auto|none|path",
             "Checkpoint to continue from; auto: the newest complete one of checkpoint.dir, else a "
             "fresh start. A job that Slurm starts again goes on from what it has saved."),
      s.choice("content", &Checkpoint::content,
               "all: every checkpoint is whole. trained: it holds what is trained, and names "
               "model.path as its base, which must stay where it is. auto: all, or with adapters "
               "trained."),
      s.choice("export", &Checkpoint::exported,
               "hf: at the end the last checkpoint is also written as a Hugging Face folder, to "
               "CHECKPOINT.DIR/hf. peft: its adapters as a PEFT folder, to CHECKPOINT.DIR/peft."),
      s.texts("allow", &Checkpoint::allow, "list of keys or sections",
              "Keys that may differ from the checkpoint's on resume although they change the "
              "answer; data.corpus: other text than the checkpoint's."),
  };
}

std::vector<Key> trace_keys() {
  const Section s("trace", &Config::trace, "train score generate");
  return {
      s.text("path", &Trace::path, "path",
             "HDF5 file for the measurements of the run. Empty: RUN.DIR/trace.h5, or trace.h5 "
             "without run.dir (score, generate: OUTPUT.trace.h5)."),
      s.integer("every", &Trace::every, at_least(1), "steps", "Steps for each record."),
      s.duration("flush", &Trace::flush, "Longest time until a record is in the file."),
      only(s.steps("routing", &Trace::routing,
                   "Steps whose routing is recorded token by token in STEM.routing.h5 beside the "
                   "trace. Empty: none."),
           "train"),
  };
}

}  // namespace

std::vector<Key> training_keys() {
  std::vector<Key> all = eval_keys();
  for (const auto& part :
       {parallel_keys(), loop_keys(), adapter_keys(), checkpoint_keys(), trace_keys()}) {
    all.insert(all.end(), part.begin(), part.end());
  }
  return all;
}

}  // namespace moesaic::config
