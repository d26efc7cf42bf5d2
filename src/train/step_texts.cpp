#include "train/step_texts.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"
#include "comm/stop.h"
#include "config/value.h"
#include "train/spike_watch.h"

namespace moesaic::train {
namespace {

// Reasons to stop; a signal adds its number to the last one.
constexpr int kCannotRecord = 1, kOutOfTime = 2, kFirstSignal = 100;

}  // namespace

std::string text_of(const data::SampleRanges& ranges, const char* separator) {
  std::vector<std::string> texts(ranges.size());
  std::transform(ranges.begin(), ranges.end(), texts.begin(), config::format_samples);
  return join(texts, separator);
}

std::string transient_text(const StepResult& first, const StepResult& second) {
  return fmt::format(
      "loss {} with gradient norm {}; the same samples gave {:.6g} and {:.6g} when they were "
      "computed again: a processor or memory is suspect",
      first.loss, first.grad_norm, second.loss, second.grad_norm);
}

std::string bad_numbers_text(const StepResult& result, const data::SampleRanges& samples) {
  return fmt::format(
      "step {}: loss {} with gradient norm {}, twice, so data or parameters are the reason "
      "(samples {}); the parameters were not changed",
      result.step, result.loss, result.grad_norm, text_of(samples, ", "));
}

std::string no_targets_text(const data::SampleRanges& samples) {
  return fmt::format(
      "nothing was to be predicted in the samples {}: contexts, or first tokens of "
      "documents, are all they hold; the loss of the step is no measure",
      text_of(samples, ", "));
}

std::string spike_text(const StepResult& result, double median) {
  return fmt::format(
      "step {}: the loss {:.6g} is {:.3g} times {:.6g}, the median of the {} steps before",
      result.step, result.lm_loss, result.lm_loss / median, median, SpikeWatch::kWindow);
}

std::string way_round(const std::filesystem::path& newest, const data::SampleRanges& samples) {
  return fmt::format(
      "; to leave its samples out, resume from an earlier checkpoint{} with data.skip_samples={}",
      newest.empty() ? "" : fmt::format(" ({})", newest.string()), text_of(samples, ","));
}

std::string way_out(const std::filesystem::path& newest) {
  return fmt::format("; {}: lower train.lr or train.clip, raise train.warmup, or skip the samples",
                     newest.empty() ? "there is no checkpoint yet"
                                    : "the last good checkpoint is " + newest.string());
}

int stop_reason(bool cannot_record, bool out_of_time) {
  if (comm::stop_requested()) {
    return kFirstSignal + comm::stop_signal();
  }
  return cannot_record ? kCannotRecord : out_of_time ? kOutOfTime : 0;
}

std::string stop_text(int reason, bool saved) {
  const std::string why = reason >= kFirstSignal ? comm::signal_name(reason - kFirstSignal)
                          : reason == kOutOfTime
                              ? "the end of run.max_wall or of the job's time limit is near"
                              : "the trace cannot be written";
  return fmt::format("{} a checkpoint ({})", saved ? "with" : "without", why);
}

}  // namespace moesaic::train
