#include "train/gradient_sum.h"

namespace moesaic::train {
namespace {

bool holds(const model::Bucket& bucket, const model::Parameter& p) {
  return bucket.sum == p.spec.sum && bucket.first_part <= p.part && p.part <= bucket.last_part;
}

}  // namespace

GradientSum::GradientSum(engine::Instance& instance) : instance_(instance) {
  for (const model::Bucket& bucket : instance.parameters.buckets()) {
    missing_.push_back(bucket.last_part - bucket.first_part + 1);
    started_.push_back(false);
  }
  // A tied table gets its sum over both stages first, at the end.
  for (const model::Parameter& p : instance.parameters.all()) {
    for (std::size_t i = 0; p.spec.tied && i < missing_.size(); ++i) {
      missing_[i] += holds(instance.parameters.buckets()[i], p) ? 1 : 0;
    }
  }
}

// A tensor that lies on several ranks of one replica has a part of its gradient on each.
void GradientSum::sum_copies(const model::Parameter& p) {
  for (const model::PublicTensor& tensor : p.spec.tensors) {
    if (!tensor.partial) {
      continue;
    }
    if (const Slice rows = p.trained_rows_with(tensor); rows.count > 0) {
      instance_[comm::Group::kKv].all_reduce_sum(p.grad_rows(rows));
    }
  }
}

void GradientSum::start(std::size_t i) {
  const model::Bucket& bucket = instance_.parameters.buckets()[i];
  comm::Collectives& group = instance_.group_of(bucket.sum);
  started_[i] = true;
  if (bucket.counts.size() > 1) {
    group.start_reduce_scatter(bucket.grad, bucket.counts);
  } else {
    group.start_all_reduce_sum(bucket.grad);
  }
}

void GradientSum::part_done(int part) {
  const PhaseScope phase(instance_.clock, Phase::kGradReduce);
  for (const model::Parameter& p : instance_.parameters.all()) {
    if (p.part == part) {
      sum_copies(p);
    }
  }
  const std::vector<model::Bucket>& buckets = instance_.parameters.buckets();
  for (std::size_t i = 0; i < buckets.size(); ++i) {
    const bool inside = buckets[i].first_part <= part && part <= buckets[i].last_part;
    if (inside && --missing_[i] == 0) {
      start(i);
    }
  }
  for (const model::SumOver sum : model::kAllSums) {
    instance_.group_of(sum).progress();
  }
}

void GradientSum::finish() {
  const PhaseScope phase(instance_.clock, Phase::kGradReduce);
  for (const model::Parameter& p : instance_.parameters.all()) {
    if (p.spec.tied && p.is_trained()) {
      instance_[comm::Group::kEnds].all_reduce_sum(p.grad);
    }
  }
  for (std::size_t i = 0; i < started_.size(); ++i) {
    if (!started_[i]) {
      start(i);
    }
  }
  for (const model::SumOver sum : model::kAllSums) {
    instance_.group_of(sum).finish();
  }
}

}  // namespace moesaic::train
