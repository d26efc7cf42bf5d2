#include "mpi/comm/ways.h"

namespace moesaic::comm {

std::vector<Way> ways() {
  return {{"mpi", cpu,
           [](Backend& backend, const Communicator&) -> MakeCollectives {
             return [&backend](const auto& group) {
               return make_mpi_collectives(backend, group, kMost);
             };
           }},
          {"staged", cpu, [](Backend& backend, const Communicator&) -> MakeCollectives {
             return [&backend](const auto& group) {
               return make_staged_collectives(backend, group, kMost);
             };
           }}};
}

}  // namespace moesaic::comm
