#include "text/huggingface/bpe.h"

#include <algorithm>
#include <queue>

#include "base/utf8.h"
#include "text/token_bytes.h"

namespace moesaic::text {
namespace {

constexpr std::size_t kFew = 48;  // symbols up to which looking at all pairs beats a heap
constexpr std::uint64_t kNoMerge = ~std::uint64_t{0};

std::uint64_t pair_of(std::uint32_t left, std::uint32_t right) {
  return (std::uint64_t{left} << 32U) | right;
}
std::uint64_t pair_of(std::int32_t left, std::int32_t right) {
  return pair_of(static_cast<std::uint32_t>(left), static_cast<std::uint32_t>(right));
}
std::int32_t product_of(std::uint64_t merge) {
  return static_cast<std::int32_t>(merge & 0xFFFFFFFFU);
}

std::vector<std::string> words_of(std::vector<std::string> tokens, bool byte_level) {
  for (std::string& token : tokens) {
    if (byte_level) {
      token = bytes_of_letters(token).value_or("");
    }
  }
  return tokens;
}

}  // namespace

Bpe::Bpe(const std::vector<std::string>& tokens, const std::vector<Merge>& merges, Options options)
    : options_(options),
      words_(words_of(tokens, options.byte_level)),
      whole_(tokens.size()),
      merges_(merges.size()) {
  byte_.fill(-1);
  for (std::int32_t id = 0; id < std::ssize(tokens); ++id) {
    if (options_.byte_level && words_[id].size() == 1) {
      byte_[static_cast<unsigned char>(words_[id][0])] = id;
    } else if (const auto byte = byte_of_token(words_[id]); byte && !options_.byte_level) {
      byte_[*byte] = id;
    }
  }
  for (std::size_t rank = 0; rank < merges.size(); ++rank) {
    const Merge& merge = merges[rank];
    merges_[pair_of(merge.left, merge.right)] =
        pair_of(static_cast<std::int32_t>(rank), merge.product);
  }
  learn_joints(merges);
  learn_whole_words();
}

/// Most words of a text are tokens. Whether merging such a word ends at its token is the same every
/// time, so it is found out once.
void Bpe::learn_whole_words() {
  std::vector<std::int32_t> symbols;
  for (std::int32_t id = 0; id < std::ssize(whole_); ++id) {
    if (words_[id].empty()) {
      continue;
    }
    symbols.clear();
    if (!options_.ignore_merges) {
      encode_symbols(words_[id], symbols);
    }
    whole_[static_cast<std::size_t>(id)] =
        options_.ignore_merges || (symbols.size() == 1 && symbols[0] == id);
  }
}

/// Text that nobody cut into words (SentencePiece) can be cut where two characters meet that stand
/// side by side in no product of a merge: no merge crosses such a place. That needs every symbol to
/// be a character, or a byte that no merge takes.
void Bpe::learn_joints(const std::vector<Merge>& merges) {
  cuts_ = options_.byte_fallback && !options_.byte_level &&
          std::none_of(byte_.begin(), byte_.end(), [](auto id) { return id < 0; });
  for (const Merge& merge : merges) {
    for (const std::int32_t part : {merge.left, merge.right}) {
      cuts_ = cuts_ && !byte_of_token(words_[part]);
    }
    std::string_view text = words_[merge.product];
    if (!cuts_ || text.empty()) {
      continue;
    }
    for (char32_t last = first_character(text);;) {
      text.remove_prefix(utf8_length(text));
      if (text.empty()) {
        break;
      }
      const char32_t next = first_character(text);
      joints_[pair_of(std::uint32_t{last}, std::uint32_t{next})] = 1;
      last = next;
    }
  }
}

std::uint64_t Bpe::merge_of(std::int32_t left, std::int32_t right) const {
  const std::uint64_t* found = merges_.find(pair_of(left, right));
  return found == nullptr ? kNoMerge : *found;
}

void Bpe::encode(std::string_view word, std::vector<std::int32_t>& tokens) const {
  const auto take_whole = [&](std::string_view text) {
    const std::int32_t id = words_.find(text);
    if (id < 0 || !whole_[static_cast<std::size_t>(id)]) {
      return false;
    }
    tokens.push_back(id);
    return true;
  };
  if (take_whole(word)) {
    return;
  }
  if (!cuts_) {
    encode_symbols(word, tokens);
    return;
  }
  while (!word.empty()) {
    std::size_t end = utf8_length(word);
    for (char32_t last = first_character(word); end < word.size();) {
      const char32_t next = first_character(word.substr(end));
      if (joints_.find(pair_of(std::uint32_t{last}, std::uint32_t{next})) == nullptr) {
        break;
      }
      end += utf8_length(word.substr(end));
      last = next;
    }
    // With ignore_merges only the word as a whole may be a token that merges do not make.
    if (options_.ignore_merges || !take_whole(word.substr(0, end))) {
      encode_symbols(word.substr(0, end), tokens);
    }
    word.remove_prefix(end);
  }
}

void Bpe::encode_symbols(std::string_view word, std::vector<std::int32_t>& tokens) const {
  const std::size_t begin = tokens.size();
  if (options_.byte_level) {
    std::int32_t last = -1;
    for (const char byte : word) {
      const std::int32_t id = byte_[static_cast<unsigned char>(byte)];
      const bool unknown = id < 0 && options_.unk >= 0 && !(options_.fuse_unk && last == -2);
      if (id >= 0 || unknown) {
        tokens.push_back(unknown ? options_.unk : id);
      }
      last = id < 0 ? -2 : id;
    }
  } else {
    append_characters(word, tokens);
  }
  tokens.resize(begin + merge(tokens.data() + begin, tokens.size() - begin));
}

/// An unknown waits until a character with a token comes: so it may be told after bytes that stand
/// behind it in the text, as in the tokenizers package.
void Bpe::append_characters(std::string_view word, std::vector<std::int32_t>& tokens) const {
  bool unknown = false;
  while (!word.empty()) {
    const std::string_view character = word.substr(0, utf8_length(word));
    word.remove_prefix(character.size());
    const std::int32_t id = words_.find(character);
    if (id >= 0) {
      if (unknown) {
        tokens.push_back(options_.unk);
        unknown = false;
      }
      tokens.push_back(id);
    } else if ((!options_.byte_fallback || !append_bytes(character, tokens)) && options_.unk >= 0) {
      if (unknown && !options_.fuse_unk) {
        tokens.push_back(options_.unk);
      }
      unknown = true;
    }
  }
  if (unknown) {
    tokens.push_back(options_.unk);
  }
}

bool Bpe::append_bytes(std::string_view character, std::vector<std::int32_t>& tokens) const {
  const std::size_t begin = tokens.size();
  for (const char byte : character) {
    tokens.push_back(byte_[static_cast<unsigned char>(byte)]);
    if (tokens.back() < 0) {
      tokens.resize(begin);
      return false;
    }
  }
  return true;
}

/// Merges in place and returns how many symbols are left.
std::size_t Bpe::merge(std::int32_t* symbols, std::size_t count) const {
  return count <= kFew ? merge_few(symbols, count) : merge_many(symbols, count);
}

std::size_t Bpe::merge_few(std::int32_t* symbols, std::size_t count) const {
  std::array<std::uint64_t, kFew> merges{};  // of symbols i and i + 1; the rank comes first
  for (std::size_t i = 0; i + 1 < count; ++i) {
    merges[i] = merge_of(symbols[i], symbols[i + 1]);
  }
  while (count > 1) {
    auto* const end = merges.begin() + count - 1;
    auto* const best = std::min_element(merges.begin(), end,
                                        [](auto a, auto b) { return (a >> 32U) < (b >> 32U); });
    if (*best == kNoMerge) {
      break;
    }
    const auto at = static_cast<std::size_t>(best - merges.begin());
    symbols[at] = product_of(*best);
    std::copy(symbols + at + 2, symbols + count, symbols + at + 1);
    std::copy(best + 1, end, best);
    --count;
    if (at + 1 < count) {
      merges[at] = merge_of(symbols[at], symbols[at + 1]);
    }
    if (at > 0) {
      merges[at - 1] = merge_of(symbols[at - 1], symbols[at]);
    }
  }
  return count;
}

std::size_t Bpe::merge_many(std::int32_t* symbols, std::size_t count) const {
  struct Candidate {
    std::uint64_t merge;
    std::size_t at;
    bool operator<(const Candidate& other) const {  // the least rank, then the leftmost, on top
      const std::uint64_t rank = merge >> 32U;
      const std::uint64_t other_rank = other.merge >> 32U;
      return rank != other_rank ? rank > other_rank : at > other.at;
    }
  };
  std::vector<std::size_t> next(count);
  std::vector<std::size_t> previous(count);
  std::priority_queue<Candidate> queue;
  const auto consider = [&](std::size_t at) {
    if (next[at] < count) {
      const std::uint64_t merge = merge_of(symbols[at], symbols[next[at]]);
      if (merge != kNoMerge) {
        queue.push({merge, at});
      }
    }
  };
  for (std::size_t i = 0; i < count; ++i) {
    next[i] = i + 1;
    previous[i] = i - 1;  // of the first: wraps, beyond count
  }
  for (std::size_t i = 0; i < count; ++i) {
    consider(i);
  }
  while (!queue.empty()) {
    const Candidate top = queue.top();
    queue.pop();
    const bool gone = symbols[top.at] < 0 || next[top.at] >= count;
    if (gone || merge_of(symbols[top.at], symbols[next[top.at]]) != top.merge) {
      continue;
    }
    const std::size_t taken = next[top.at];
    symbols[top.at] = product_of(top.merge);
    symbols[taken] = -1;
    next[top.at] = next[taken];
    if (next[taken] < count) {
      previous[next[taken]] = top.at;
    }
    consider(top.at);
    if (previous[top.at] < count) {
      consider(previous[top.at]);
    }
  }
  return static_cast<std::size_t>(std::remove(symbols, symbols + count, -1) - symbols);
}

}  // namespace moesaic::text
