#pragma once

#include <filesystem>
#include <string>

#include "data/batches.h"
#include "train/stepper.h"

// What a run says of a step, in the log and as events of the trace.
namespace moesaic::train {

/// "40:48, 56:64"
std::string text_of(const data::SampleRanges& ranges, const char* separator);

/// Numbers that were bad once only.
std::string transient_text(const StepResult& first, const StepResult& second);
std::string bad_numbers_text(const StepResult& result, const data::SampleRanges& samples);
std::string no_targets_text(const data::SampleRanges& samples);
std::string spike_text(const StepResult& result, double median);
/// What the user can do about a spike. newest: the checkpoint; empty: none.
std::string way_round(const std::filesystem::path& newest, const data::SampleRanges& samples);
/// What the user can do about bad numbers.
std::string way_out(const std::filesystem::path& newest);

/// Why this rank stops early, as a number of which the largest of all ranks counts: 0: it does not;
/// then what cannot be recorded, the end of the time, and signals.
int stop_reason(bool cannot_record, bool out_of_time);
/// "with a checkpoint (SIGTERM)", or what else the reason is.
std::string stop_text(int reason, bool saved);

}  // namespace moesaic::train
