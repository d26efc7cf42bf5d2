#include <array>

#include "hf/family.h"

namespace moesaic::hf {

std::span<const Family* const> families() {
  static const std::array all{&mixtral(),     &qwen2_moe(),   &qwen3_moe(), &olmoe(),
                              &deepseek_v2(), &deepseek_v3(), &gpt_oss()};
  return all;
}

}  // namespace moesaic::hf
