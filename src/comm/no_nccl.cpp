#include "comm/collectives.h"

// Linked where NCCL is absent.
namespace moesaic::comm {

std::unique_ptr<Collectives> make_nccl_collectives(Backend& /*backend*/,
                                                   const Communicator& /*group*/) {
  throw Error(Exit::kUsage, "this build has no NCCL; use run.device = cpu");
}

}  // namespace moesaic::comm
