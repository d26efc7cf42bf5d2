#include "model/parameter/buckets.h"

#include <algorithm>
#include <utility>

namespace moesaic::model {

bool Bucket::is_whole() const {
  return std::all_of(members.begin(), members.end(),
                     [](const Parameter* p) { return p->is_trained_whole(); });
}

std::vector<Bucket> make_buckets(std::deque<Parameter>& parameters,
                                 const std::map<SumOver, Owner>& owners) {
  std::vector<Bucket> buckets;
  constexpr std::int64_t kElements = std::int64_t{1} << 22U;  // worth a call
  constexpr std::int64_t kMost = std::int64_t{1} << 26U;      // and then one for each parameter
  for (const SumOver sum : kAllSums) {
    std::vector<Parameter*> members;
    const Owner owner = owners.contains(sum) ? owners.at(sum) : Owner{};
    const auto close = [&] {
      if (members.empty()) {
        return;
      }
      const Parameter& front = *members.front();
      const Parameter& back = *members.back();
      const std::int64_t size = back.begin + padded(back.trained_elements()) - front.begin;
      const std::int64_t values_end = back.value_begin + padded(back.spec.shape.numel());
      Bucket bucket{.sum = sum,
                    .first_part = front.part,
                    .last_part = back.part,
                    .members = members,
                    .values = {front.value_begin, values_end - front.value_begin},
                    .gradients = {front.begin, size},
                    .counts = share_out(members, owner),
                    .value = {},
                    .grad = {}};
      buckets.push_back(bucket);
      members.clear();
    };
    for (Parameter& p : parameters) {
      if (p.spec.sum != sum || !p.is_trained()) {
        continue;
      }
      const std::int64_t size = members.empty() ? 0 : p.begin - members.front()->begin;
      if ((size >= kElements && p.part != members.back()->part) || size >= kMost || p.spec.tied) {
        close();
      }
      members.push_back(&p);
      if (p.spec.tied) {  // alone, so that both ends of a pipeline sum it in the same order
        close();
      }
    }
    close();
  }
  return buckets;
}

}  // namespace moesaic::model
