#pragma once

#include "data/corpus/corpus.h"
#include "text/tokenizer.h"

namespace moesaic::data {

/// The tokenizer that a corpus was made with, checked against the corpus's hash (kBadData).
text::Tokenizer tokenizer_of(const CorpusInfo& corpus);

}  // namespace moesaic::data
