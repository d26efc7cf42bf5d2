#include "mpi/comm/ways.h"

namespace moesaic::comm {

// For a program with a device, or with an emulation of one, whose memory MPI must not see.
std::vector<Way> ways() {
  return {{"staged", [] { return make_cuda_backend(0); },
           [](Backend& backend, const Communicator&) -> MakeCollectives {
             return [&backend](const auto& group) {
               return make_staged_collectives(backend, group, kMost);
             };
           }}};
}

}  // namespace moesaic::comm
