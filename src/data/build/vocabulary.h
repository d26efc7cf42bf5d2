#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "config/config.h"
#include "data/build/scan.h"
#include "text/tokenizer.h"

namespace moesaic::data {

constexpr std::int64_t kSampleBytes = 5'000'000;  // of text to train a vocabulary on

/// Collective over world: the tokenizer that the config names, unless it is still to be trained.
std::optional<text::Tokenizer> open_tokenizer(const config::Tokenize& config,
                                              const comm::Communicator& world);

/// Collective over world: rank 0 trains a vocabulary on the blocks with the smallest keys, which
/// are the same on any number of ranks.
text::Tokenizer train_vocabulary(const std::vector<TextSample>& sample,
                                 const config::Tokenize& config, const comm::Communicator& world);

/// What of the config decides the bytes of the output. No tokenizer: to be trained.
std::string settings_of(const config::Tokenize& config,
                        const std::optional<text::Tokenizer>& tokenizer);

}  // namespace moesaic::data
