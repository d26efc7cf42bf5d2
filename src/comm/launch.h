#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "comm/communicator.h"

// How the job was launched, and what is likely to be wrong with it.
namespace moesaic::comm {

/// "Open MPI v4.1.4"
std::string mpi_library();
/// What MPI grants to threads: "multiple", "serialized", ...
std::string mpi_threads();
/// What carries messages, as far as it can be seen: "ob1 (self, tcp, vader)", "ucx", "ch4:ofi", or
/// "unknown".
std::string mpi_transport();
/// All three in one line.
std::string mpi_text();

/// The same from the files that a process has mapped (/proc/self/maps) and the name of its library:
/// Open MPI keeps the components mapped that it has chosen.
std::string transport_of(std::string_view maps, std::string_view library);
/// InfiniBand devices with an active port below `sys` (/sys/class/infiniband).
std::vector<std::string> active_infiniband(const std::filesystem::path& sys);
/// What to warn of where messages between hosts go over TCP although there is InfiniBand; or empty.
std::string slow_transport(std::string_view transport, const std::vector<std::string>& devices);

/// Warns of the above, and of srun that has started every task as a world of its own. Collective
/// over the world.
void check_launch(const Communicator& world);

}  // namespace moesaic::comm
