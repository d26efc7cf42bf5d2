#include <array>

#include "hf/family.h"

namespace moesaic::hf {

std::span<const Family* const> families() {
  static constexpr std::array<const Family*, 7> kAll{
      &kMixtral, &kQwen2Moe, &kQwen3Moe, &kOlmoe, &kDeepseekV2, &kDeepseekV3, &kGptOss};
  return kAll;
}

}  // namespace moesaic::hf
