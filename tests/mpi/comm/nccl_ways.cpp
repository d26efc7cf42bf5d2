#include "mpi/comm/ways.h"

namespace moesaic::comm {

std::vector<Way> ways() { return {{"nccl", cpu, make_nccl_collectives}}; }

}  // namespace moesaic::comm
