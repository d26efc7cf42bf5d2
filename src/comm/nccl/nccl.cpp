#include <cstdlib>
#include <string_view>

#include "comm/nccl/nccl_collectives.h"

// Linked where NCCL is there; else no_nccl.cpp.
namespace moesaic::comm {
namespace {

// 10000 x major + 100 x minor + patch.
int version_code() {
  int code = 0;
  checked(ncclGetVersion(&code), "ncclGetVersion");
  return code;
}

}  // namespace

std::string nccl_version() {
  const int code = version_code();
  return fmt::format("{}.{}.{}", code / 10'000, code / 100 % 100, code % 100);
}

bool nccl_shares_gpus() {
  constexpr int kFirst = 23'000;
  const char* const enabled = std::getenv("NCCL_MULTI_RANK_GPU_ENABLE");
  return version_code() >= kFirst && enabled != nullptr && std::string_view(enabled) == "1";
}

MakeCollectives make_nccl_collectives(Backend& backend, const Communicator& world) {
  const auto shared = std::make_shared<NcclWorld>(backend, world);
  return [shared](const Communicator& group) {
    return std::make_unique<NcclCollectives>(shared, group);
  };
}

}  // namespace moesaic::comm
