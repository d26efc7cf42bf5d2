#pragma once

#include "io/corpus.h"
#include "io/tokenizer.h"

namespace moesaic::io {

/// The tokenizer that a corpus was made with, checked against the corpus's hash (kBadData).
Tokenizer tokenizer_of(const CorpusInfo& corpus);

}  // namespace moesaic::io
