#include "config/section.h"

namespace moesaic::config {
namespace {

std::vector<Key> shape_keys() {
  const Section s("model", &Config::model, "train score generate plan");
  return {
      only(s.text("path", &Model::path, "path",
                  "Checkpoint to take weights, router biases and task names from; training then "
                  "starts at step 0. Empty: random initial weights."),
           "train score generate"),
      only(s.text("adapter", &Model::adapter, "path",
                  "Adapters that are added to the weights of model.path when they are read: a PEFT "
                  "folder, or a checkpoint that has some. Empty: none."),
           "train score generate convert"),
      s.integer("layers", &Model::layers, between(1, 1e5), "", "Transformer blocks."),
      s.integer("d_model", &Model::d_model, between(1, 1e6), "", "Width of the residual stream."),
      s.integer("heads", &Model::heads, between(1, 1e5), "", "Query heads of attention."),
      s.integer("kv_heads", &Model::kv_heads, between(0, 1e5), "",
                "Key and value heads, a divisor of heads (grouped-query attention). 0: heads."),
      s.integer("head_dim", &Model::head_dim, between(0, 1e5), "",
                "Width of one head, even. 0: d_model / heads."),
      s.integer("d_ff", &Model::d_ff, between(0, 1e7), "",
                "Hidden width of the feed-forward part of dense layers. 0: 4 x d_model."),
      s.integer("vocab_size", &Model::vocab_size, between(0, 1e9), "tokens",
                "Rows of the embedding. 0: the corpus's vocabulary."),
      s.integer("max_seq", &Model::max_seq, between(1, 1e8), "tokens",
                "Longest sequence that the model is ever given."),
      s.number("rope_theta", &Model::rope_theta, above(0), "",
               "Base of the rotary position frequencies."),
      s.number("norm_eps", &Model::norm_eps, above(0), "",
               "Added to the mean square in every RMS norm."),
      s.boolean("tie_embeddings", &Model::tie_embeddings,
                "Use the embedding as the output head as well."),
      s.integer("dense_layers", &Model::dense_layers, between(0, 1e5), "",
                "First layers, which have a dense feed-forward part in place of experts."),
      s.integer("moe_every", &Model::moe_every, between(1, 1e5), "layers",
                "Layers N, 2N, 3N, ... have experts (counted from 1), the others a dense part."),
      s.integers("dense_at", &Model::dense_at, between(0, 1e5),
                 "Further dense layers, counted from 0."),
      s.integer("experts", &Model::experts, between(0, 1e5), "",
                "Routed experts of each layer. 0: none, with dense_layers = layers."),
      s.integer("shared_experts", &Model::shared_experts, between(0, 1e5), "",
                "Experts that every token passes, beside the routed ones."),
      s.integer("top_k", &Model::top_k, between(1, 1e5), "",
                "Routed experts chosen for each token."),
      s.integer("expert_d_ff", &Model::expert_d_ff, between(0, 1e7), "",
                "Hidden width of one expert. 0: d_model."),
      s.integer("shared_d_ff", &Model::shared_d_ff, between(0, 1e7), "",
                "Hidden width of the shared experts together. 0: shared_experts x expert_d_ff."),
      s.boolean("shared_gate", &Model::shared_gate,
                "Multiply the shared experts' output by a learned sigmoid of the token."),
      s.number("swiglu_limit", &Model::swiglu_limit, at_least(0), "",
               "Clamp both halves of the experts' SwiGLU, as gpt-oss does: (up + 1) gate "
               "sigmoid(1.702 gate). 0: plain SwiGLU."),
      s.boolean("expert_bias", &Model::expert_bias, "Add biases in the products of experts."),
  };
}

std::vector<Key> router_keys() {
  const Section s("router", &Config::router, "train score generate plan");
  return {
      s.choice("score", &Router::score, "How router logits become scores."),
      s.boolean("task_gate", &Router::task_gate,
                "Gate of two layers: attention of a query of the token over one key for each "
                "expert chooses candidates, then weights of the token's task are added."),
      s.integer("candidates", &Router::candidates, between(0, 1e5), "experts",
                "With task_gate: how many experts its first layer leaves over. 0: all."),
      s.boolean("normalize", &Router::normalize,
                "Divide the weights of the chosen experts by their sum."),
      s.number("scale", &Router::scale, above(0), "",
               "Factor on the weights of the routed experts."),
      s.boolean("gate_bias", &Router::gate_bias, "Add a learned bias to the router logits."),
      s.integer("groups", &Router::groups, between(1, 1024), "",
                "Groups of equally many experts, next to each other."),
      s.integer("top_groups", &Router::top_groups, between(1, 1024), "",
                "Groups that a token chooses from: those of the largest group_score."),
      s.choice("group_score", &Router::group_score,
               "Score of a group: the sum of its two best scores, or its best one."),
      s.number("temperature", &Router::temperature, above(0), "",
               "Divides the router logits: below 1 sharper, above 1 flatter."),
      s.number(
          "threshold", &Router::threshold, between(0, 1), "",
          "A token takes the fewest experts, best first and at most top_k, whose shares of the "
          "scores add up to this. 0: always top_k."),
      s.integer("capacity", &Router::capacity, at_least(0), "slots",
                "Slots of each expert for each micro-batch. 0: no limit, no token is dropped."),
      s.number(
          "capacity_factor", &Router::capacity_factor, at_least(0), "",
          "Instead of capacity: slots = ceil(factor x tokens x top_k / experts). 0: no limit."),
      s.choice("overflow", &Router::overflow,
               "What becomes of a choice that finds no free slot: dropped; the token's next best "
               "expert with a free slot; or the spare that fits the token best, then the next "
               "best expert."),
      s.integer("spare_experts", &Router::spare_experts, between(0, 1e5), "",
                "Experts that take overflow alone, with overflow = spare."),
      only(s.integer("gradient_buffer", &Router::gradient_buffer, at_least(0), "tokens",
                     "Updates an expert only once it has processed so many tokens since its last "
                     "update, with the mean gradient of the steps since then. 0: in every step."),
           "train plan"),
      only(s.choice("balance", &Router::balance,
                    "How loads are evened out: by the auxiliary loss, or by a bias on the choice."),
           "train plan"),
      only(s.number("aux_loss", &Router::aux_loss, at_least(0), "",
                    "Weight of the load-balancing loss, which is 1 when balanced."),
           "train"),
      only(s.choice("aux_scope", &Router::aux_scope,
                    "Over which tokens the load-balancing loss counts choices: each sequence, each "
                    "micro-batch, or the whole batch of the step before."),
           "train"),
      only(s.number("z_loss", &Router::z_loss, at_least(0), "",
                    "Weight of mean(logsumexp(router logits)^2), which keeps the logits small."),
           "train"),
      only(s.number("bias_rate", &Router::bias_rate, at_least(0), "",
                    "With balance = bias: how far a bias moves at each step."),
           "train"),
      s.choice("force", &Router::force,
               "For measurements: ignore the router's choice and send the tokens to all experts in "
               "turn, or half of them to one hot expert (rotating: another one in each step)."),
      only(s.boolean("eval_capacity", &Router::eval_capacity,
                     "Keep the capacity in evaluation and score. 0: they route without a limit, so "
                     "that a result never depends on its batch."),
           "train score"),
      only(s.integer("tasks", &Router::tasks, between(0, 255), "",
                     "Number of tasks in the trace. 0: those of the corpus."),
           "train score generate"),
  };
}

std::vector<Key> data_keys() {
  const Section s("data", &Config::data, "train");
  return {
      only(s.texts("corpus", &Data::corpus, "list of paths",
                   "Corpora: manifests, folders with one manifest, shard files or globs."),
           "train score generate plan"),
      s.texts("eval_corpus", &Data::eval_corpus, "list of paths",
              "Corpora for evaluation while training."),
      s.numbers("corpus_weights", &Data::corpus_weights, at_least(0),
                "Share of the samples that each corpus gives, one weight for each. Empty: by "
                "size. Not with task_weights."),
      s.weights("task_weights", &Data::task_weights,
                "Share of the samples that each task gives, as code:2,prose:1; a task that is not "
                "named is never drawn. A sample is of the task that most of its tokens are of. "
                "Empty: by size."),
      only(s.integer("seq_len", &Data::seq_len, between(1, 1e8), "tokens",
                     "Length of one training sequence, at most model.max_seq."),
           "train plan"),
      only(s.choice("samples", &Data::samples,
                    "What a sample is. stream: seq_len tokens of the corpus, wherever documents "
                    "begin; documents: one whole document, or the neighbours of one group."),
           "train plan"),
      only(s.choice("truncate", &Data::truncate,
                    "With samples=documents: what is done with a document of more than "
                    "seq_len + 1 tokens. drop: it is left out, with its group; end: its end is "
                    "cut off."),
           "train plan"),
      s.integer("seed", &Data::seed, at_least(0), "", "Seed of the order of the samples."),
      s.samples("skip_samples", &Data::skip_samples,
                "Samples that are never drawn, by their numbers in the run's order, END not among "
                "them: those that made the loss jump, as the event loss_spike names them. May "
                "change on resume."),
  };
}

}  // namespace

std::vector<Key> model_keys() {
  std::vector<Key> all = shape_keys();
  for (const auto& part : {attention_keys(), router_keys(), data_keys()}) {
    all.insert(all.end(), part.begin(), part.end());
  }
  return all;
}

}  // namespace moesaic::config
