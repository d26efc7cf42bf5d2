#include "train/step.h"

#include <optional>
#include <utility>

#include "engine/pipeline.h"
#include "train/gradient_sum.h"

namespace moesaic::train {
namespace {

using engine::Pass;
using engine::PipelineStep;

// A micro-batch whose turn comes again, as the context has had it.
struct Placed {
  int passes = 0;  // that are to come
  std::optional<model::Batch> batch;
};

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
        placed_(batches.size()),
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
    std::vector<PipelineStep> order = engine::training_order(
        pp.rank(), pp.size(), instance_.transformer.chunks(), static_cast<int>(batches_.size()));
    std::erase_if(order, [&](const PipelineStep& step) {
      return step.pass == Pass::kBackward && !instance_.transformer.has_backward(step.chunk);
    });
    for (const PipelineStep& step : order) {
      ++placed_[static_cast<std::size_t>(step.micro_batch)].passes;
    }
    for (const PipelineStep& step : order) {
      set_batch(static_cast<std::size_t>(step.micro_batch));
      step.pass == Pass::kForward ? forward(step) : backward(step);
    }
    link_.finish();
    sum_.finish();
    read_losses();
    return std::move(outcome_);
  }

 private:
  std::size_t chunks() const { return static_cast<std::size_t>(instance_.transformer.chunks()); }
  InFlight& in_flight(const PipelineStep& step) {
    return in_flight_[static_cast<std::size_t>(step.micro_batch) * chunks() +
                      static_cast<std::size_t>(step.chunk)];
  }

  // Makes a micro-batch the current one of the context. What kernels read of it is uploaded once.
  void set_batch(std::size_t i) {
    --placed_[i].passes;
    if (current_ == i) {
      return;
    }
    if (current_ && placed_[*current_].passes > 0) {
      placed_[*current_].batch = ctx_.batch;
    }
    current_ = i;
    if (placed_[i].batch) {
      ctx_.batch = *std::exchange(placed_[i].batch, std::nullopt);
    } else {
      model::set_batch(ctx_, batches_[i]);
    }
  }

  void forward(const PipelineStep& step) {
    const PhaseScope phase(ctx_.clock, Phase::kForward);
    const model::Transformer& model = instance_.transformer;
    InFlight& kept = in_flight(step);
    const Tensor y = model.forward(ctx_, step.chunk, link_.receive(ctx_, step), &kept.saved);
    link_.send(step, y);
    if (model.ends(step.chunk)) {
      kept.dhidden = add_loss(y);
    }
  }

  // y: the last hidden state of the context's micro-batch. Returns its gradient; what the loss is
  // is read when all of them are there, so that the host need not wait for the device.
  Tensor add_loss(const Tensor& y) {
    const model::Transformer& model = instance_.transformer;
    std::vector<float> known;
    if (objective_.reads_log_probs) {
      known = model.head().log_probs(ctx_, y).logprob;
    }
    weights_.push_back(objective_.weigh(*ctx_.batch.host, known));
    std::vector<float> scaled = weights_.back();
    for (float& weight : scaled) {
      weight *= scale_;
    }
    model::Head::Loss loss = model.head().loss(ctx_, y, scaled, model.wants_hidden_gradient());
    losses_.push_back(std::move(loss.rows));
    return loss.dx;
  }

  // The last chunk's forward comes to the micro-batches in order.
  void read_losses() {
    if (losses_.empty()) {
      return;
    }
    const PhaseScope phase(ctx_.clock, Phase::kForward);
    std::vector<model::Head::Metrics> all = model::Head::read(ctx_, losses_);
    for (std::size_t i = 0; i < all.size(); ++i) {
      for (std::size_t row = 0; row < weights_[i].size(); ++row) {
        outcome_.loss -=
            static_cast<double>(weights_[i][row]) * static_cast<double>(all[i].logprob[row]);
      }
      outcome_.entropy += all[i].entropy;
      outcome_.correct += all[i].correct;
      outcome_.logprob[i] = std::move(all[i].logprob);
    }
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
  bool last_backward_ = false;          // the present backward is of the last micro-batch
  std::optional<std::size_t> current_;  // micro-batch of the context
  std::vector<Placed> placed_;          // each micro-batch
  std::vector<InFlight> in_flight_;
  std::vector<std::vector<float>> weights_;  // of the rows of each micro-batch
  std::vector<model::Head::LossRows> losses_;
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
