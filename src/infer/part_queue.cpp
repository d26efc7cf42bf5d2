#include "infer/part_queue.h"

#include <iterator>
#include <utility>

namespace moesaic::infer {

PromptSource::PromptSource(data::Prompts& prompts, std::vector<std::int64_t> parts)
    : prompts_(prompts), parts_(std::move(parts)) {
  read_ahead();
}

void PromptSource::read_ahead() {
  if (at_ < parts_.size()) {
    next_.start([this, part = parts_[at_]] { return prompts_.read(part); });
  }
}

PromptSource::Part PromptSource::next() {
  Part part{parts_[at_], next_.get()};
  ++at_;
  read_ahead();
  return part;
}

void OpenParts::open(const PromptSource::Part& part) {
  Open& open = open_[part.number];
  open.first = part.prompts.empty() ? 0 : part.prompts.front().document;
  open.missing = std::ssize(part.prompts);
  open.content.continuations.resize(part.prompts.size());
  open.content.texts.resize(part.prompts.size());
}

void OpenParts::add(std::int64_t document, const record::Continuation& result,
                    const std::optional<std::string>& text) {
  // The last part that begins at or before the document.
  auto part = open_.begin();
  for (auto next = part; next != open_.end() && next->second.first <= document; ++next) {
    part = next;
  }
  const auto at = static_cast<std::size_t>(document - part->second.first);
  part->second.content.continuations.at(at) = result;
  part->second.content.texts.at(at) = text;
  --part->second.missing;
}

std::map<std::int64_t, record::GenerationsPart> OpenParts::take_whole() {
  std::map<std::int64_t, record::GenerationsPart> whole;
  for (auto part = open_.begin(); part != open_.end();) {
    if (part->second.missing == 0) {
      whole[part->first] = std::move(part->second.content);
      part = open_.erase(part);
    } else {
      ++part;
    }
  }
  return whole;
}

}  // namespace moesaic::infer
