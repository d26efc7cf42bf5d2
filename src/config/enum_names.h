#pragma once

#include <array>
#include <string>
#include <string_view>
#include <utility>

#include "config/config.h"

namespace moesaic::config {

// The names of the values of every enum, as they stand in configs, traces and tables.

template <class Enum, std::size_t N>
using Names = std::array<std::pair<Enum, std::string_view>, N>;

constexpr Names<Score, 2> names_of(Score) {
  return {{{Score::kSoftmax, "softmax"}, {Score::kSigmoid, "sigmoid"}}};
}
constexpr Names<GroupScore, 2> names_of(GroupScore) {
  return {{{GroupScore::kTop2, "top2"}, {GroupScore::kMax, "max"}}};
}
constexpr Names<QkNorm, 3> names_of(QkNorm) {
  return {{{QkNorm::kNone, "none"}, {QkNorm::kHead, "head"}, {QkNorm::kProjection, "projection"}}};
}
constexpr Names<RopeScaling, 3> names_of(RopeScaling) {
  return {{{RopeScaling::kNone, "none"},
           {RopeScaling::kLinear, "linear"},
           {RopeScaling::kYarn, "yarn"}}};
}
constexpr Names<Balance, 3> names_of(Balance) {
  return {{{Balance::kNone, "none"}, {Balance::kAuxLoss, "aux_loss"}, {Balance::kBias, "bias"}}};
}
constexpr Names<Force, 4> names_of(Force) {
  return {{{Force::kNone, "none"},
           {Force::kBalanced, "balanced"},
           {Force::kHot, "hot"},
           {Force::kRotating, "rotating"}}};
}
constexpr Names<Overflow, 3> names_of(Overflow) {
  return {{{Overflow::kDrop, "drop"}, {Overflow::kNext, "next"}, {Overflow::kSpare, "spare"}}};
}
constexpr Names<AuxScope, 3> names_of(AuxScope) {
  return {{{AuxScope::kSequence, "sequence"},
           {AuxScope::kMicroBatch, "micro_batch"},
           {AuxScope::kBatch, "batch"}}};
}
constexpr Names<Schedule, 4> names_of(Schedule) {
  return {{{Schedule::kCosine, "cosine"},
           {Schedule::kLinear, "linear"},
           {Schedule::kConstant, "constant"},
           {Schedule::kWsd, "wsd"}}};
}
constexpr Names<Placing, 2> names_of(Placing) {
  return {{{Placing::kBlocks, "blocks"}, {Placing::kLoad, "load"}}};
}
constexpr Names<Content, 3> names_of(Content) {
  return {{{Content::kAuto, "auto"}, {Content::kAll, "all"}, {Content::kTrained, "trained"}}};
}
constexpr Names<Export, 3> names_of(Export) {
  return {{{Export::kNone, "none"}, {Export::kHf, "hf"}, {Export::kPeft, "peft"}}};
}
constexpr Names<ConvertTo, 4> names_of(ConvertTo) {
  return {{{ConvertTo::kAuto, "auto"},
           {ConvertTo::kHf, "hf"},
           {ConvertTo::kMoesaic, "moesaic"},
           {ConvertTo::kPeft, "peft"}}};
}
constexpr Names<PoolAction, 4> names_of(PoolAction) {
  return {{{PoolAction::kAdd, "add"},
           {PoolAction::kRemove, "remove"},
           {PoolAction::kClone, "clone"},
           {PoolAction::kPromote, "promote"}}};
}
constexpr Names<PipelineSchedule, 2> names_of(PipelineSchedule) {
  return {{{PipelineSchedule::k1f1b, "1f1b"}, {PipelineSchedule::kInterleaved, "interleaved"}}};
}
constexpr Names<MpiThreads, 2> names_of(MpiThreads) {
  return {{{MpiThreads::kMultiple, "multiple"}, {MpiThreads::kSerialized, "serialized"}}};
}
constexpr Names<Device, 2> names_of(Device) {
  return {{{Device::kCpu, "cpu"}, {Device::kCuda, "cuda"}}};
}
constexpr Names<CollectivesBy, 2> names_of(CollectivesBy) {
  return {{{CollectivesBy::kNccl, "nccl"}, {CollectivesBy::kStaged, "staged"}}};
}
constexpr Names<OnError, 2> names_of(OnError) {
  return {{{OnError::kStop, "stop"}, {OnError::kSkip, "skip"}}};
}
constexpr Names<Truncate, 2> names_of(Truncate) {
  return {{{Truncate::kNone, "none"}, {Truncate::kLeft, "left"}}};
}
constexpr Names<Samples, 2> names_of(Samples) {
  return {{{Samples::kStream, "stream"}, {Samples::kDocuments, "documents"}}};
}
constexpr Names<TooLong, 2> names_of(TooLong) {
  return {{{TooLong::kDrop, "drop"}, {TooLong::kEnd, "end"}}};
}
constexpr Names<ReferenceDetail, 4> names_of(ReferenceDetail) {
  return {{{ReferenceDetail::kNone, "none"},
           {ReferenceDetail::kLayers, "layers"},
           {ReferenceDetail::kExperts, "experts"},
           {ReferenceDetail::kBoth, "both"}}};
}
constexpr Names<Tri, 3> names_of(Tri) {
  return {{{Tri::kAuto, "auto"}, {Tri::kOff, "0"}, {Tri::kOn, "1"}}};
}
constexpr Names<LogLevel, 4> names_of(LogLevel) {
  return {{{LogLevel::kDebug, "debug"},
           {LogLevel::kInfo, "info"},
           {LogLevel::kWarn, "warn"},
           {LogLevel::kError, "error"}}};
}

template <class Enum>
std::string name_of(Enum value) {
  for (const auto& [candidate, name] : names_of(value)) {
    if (candidate == value) {
      return std::string(name);
    }
  }
  return {};
}

}  // namespace moesaic::config
