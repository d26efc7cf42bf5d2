#include "comm/collectives.h"

// Linked where NCCL is absent.
namespace moesaic::comm {

MakeCollectives make_nccl_collectives(Backend& /*backend*/, const Communicator& /*world*/) {
  throw Error(Exit::kUsage, "run.collectives = nccl: this build has no NCCL; use staged");
}

std::string nccl_version() { return {}; }
bool nccl_shares_gpus() { return false; }

}  // namespace moesaic::comm
