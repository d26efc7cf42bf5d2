#include "model/parameter/buckets.h"

#include <utility>

namespace moesaic::model {

std::vector<Bucket> make_buckets(std::deque<Parameter>& parameters,
                                 const std::map<SumOver, Tensor>& values,
                                 const std::map<SumOver, Tensor>& gradients,
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
      const std::int64_t begin = members.front()->begin;
      const std::int64_t size = members.back()->begin + members.back()->padded_size() - begin;
      Bucket bucket{.sum = sum,
                    .first_part = members.front()->part,
                    .last_part = members.back()->part,
                    .value = values.at(sum).rows(begin, size),
                    .grad = gradients.at(sum).rows(begin, size),
                    .counts = share_out(members, size, owner)};
      buckets.push_back(bucket);
      members.clear();
    };
    for (Parameter& p : parameters) {
      if (p.spec.sum != sum) {
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
