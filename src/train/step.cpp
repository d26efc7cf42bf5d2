#include "train/step.h"

#include "engine/pipeline.h"
#include "train/gradient_sum.h"

namespace moesaic::train {
namespace {

using engine::Pass;
using engine::PipelineStep;

// What one chunk of one micro-batch keeps from forward to backward.
struct InFlight {
  model::Transformer::Saved saved;
  Tensor dhidden;  // of the last chunk
};

class StepRunner {
 public:
  StepRunner(engine::Instance& instance, const model::Context& ctx,
             std::span<const data::MicroBatch> batches, const Objective& objective, double size)
      : instance_(instance),
        ctx_(ctx),
        batches_(batches),
        objective_(objective),
        scale_(static_cast<float>(1.0 / size)),
        link_(instance),
        sum_(instance),
        in_flight_(batches.size() * chunks()) {
    outcome_.logprob.resize(batches.size());
    ctx_.observers.push_back({.on_part_done = [this](const model::PartDoneEvent& event) {
      if (last_backward_) {
        sum_.part_done(event.part);
      }
    }});
  }
  StepRunner(const StepRunner&) = delete;
  StepRunner& operator=(const StepRunner&) = delete;

  StepOutcome run() {
    const comm::Communicator& pp = instance_.mesh[comm::Group::kPp];
    for (const PipelineStep& step :
         engine::training_order(pp.rank(), pp.size(), instance_.transformer.chunks(),
                                static_cast<int>(batches_.size()))) {
      if (step.pass == Pass::kBackward && !instance_.transformer.has_backward(step.chunk)) {
        continue;
      }
      model::set_batch(ctx_, batches_[static_cast<std::size_t>(step.micro_batch)]);
      step.pass == Pass::kForward ? forward(step) : backward(step);
    }
    link_.finish();
    sum_.finish();
    return std::move(outcome_);
  }

 private:
  std::size_t chunks() const { return static_cast<std::size_t>(instance_.transformer.chunks()); }
  InFlight& in_flight(const PipelineStep& step) {
    return in_flight_[static_cast<std::size_t>(step.micro_batch) * chunks() +
                      static_cast<std::size_t>(step.chunk)];
  }

  void forward(const PipelineStep& step) {
    const PhaseScope phase(ctx_.clock, Phase::kForward);
    const model::Transformer& model = instance_.transformer;
    InFlight& kept = in_flight(step);
    const Tensor y = model.forward(ctx_, step.chunk, link_.receive(ctx_, step), &kept.saved);
    link_.send(step, y);
    if (model.ends(step.chunk)) {
      model::Head::Loss loss = this->loss(y);
      kept.dhidden = loss.dx;
      outcome_.logprob[static_cast<std::size_t>(step.micro_batch)] = std::move(loss.logprob);
    }
  }

  // y: the last hidden state of the context's micro-batch.
  model::Head::Loss loss(const Tensor& y) {
    const model::Transformer& model = instance_.transformer;
    std::vector<float> known;
    if (objective_.reads_log_probs) {
      known = model.head().log_probs(ctx_, y).logprob;
    }
    const std::vector<float> weights = objective_.weigh(*ctx_.batch.host, known);
    std::vector<float> scaled = weights;
    for (float& weight : scaled) {
      weight *= scale_;
    }
    model::Head::Loss loss = model.head().loss(ctx_, y, scaled, model.wants_hidden_gradient());
    for (std::size_t row = 0; row < weights.size(); ++row) {
      outcome_.loss -= static_cast<double>(weights[row]) * static_cast<double>(loss.logprob[row]);
    }
    outcome_.entropy += loss.entropy;
    outcome_.correct += loss.correct;
    return loss;
  }

  void backward(const PipelineStep& step) {
    const PhaseScope phase(ctx_.clock, Phase::kBackward);
    const model::Transformer& model = instance_.transformer;
    InFlight& kept = in_flight(step);
    const Tensor dy = model.ends(step.chunk) ? kept.dhidden : link_.receive(ctx_, step);
    last_backward_ = static_cast<std::size_t>(step.micro_batch) + 1 == batches_.size();
    link_.send(step, model.backward(ctx_, step.chunk, dy, kept.saved));
    kept = {};
  }

  engine::Instance& instance_;
  model::Context ctx_;
  std::span<const data::MicroBatch> batches_;
  const Objective& objective_;
  float scale_;
  engine::StageLink link_;
  GradientSum sum_;
  bool last_backward_ = false;  // the present backward is of the last micro-batch
  std::vector<InFlight> in_flight_;
  StepOutcome outcome_;
};

}  // namespace

void zero_gradients(engine::Instance& instance) {
  for (const model::Bucket& bucket : instance.parameters.buckets()) {
    instance.backend->zero(bucket.grad);
  }
}

StepOutcome forward_backward(engine::Instance& instance, const model::Context& ctx,
                             std::span<const data::MicroBatch> batches, const Objective& objective,
                             double size) {
  return StepRunner(instance, ctx, batches, objective, size).run();
}

}  // namespace moesaic::train
