#include "comm/launch.h"

#include <fmt/format.h>
#include <mpi.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <fstream>
#include <set>
#include <sstream>

#include "base/log.h"
#include "base/text.h"

namespace moesaic::comm {
namespace {

namespace fs = std::filesystem;

std::string first_line(const fs::path& file) {
  std::ifstream in(file);
  std::string line;
  std::getline(in, line);
  return line;
}

std::string library_text() {
  std::array<char, MPI_MAX_LIBRARY_VERSION_STRING> text{};
  int length = 0;
  MPI_Get_library_version(text.data(), &length);
  return {text.data(), static_cast<std::size_t>(length)};
}

/// NAME of every mapped file mca_FRAMEWORK_NAME.so.
std::set<std::string> components(std::string_view maps, std::string_view framework) {
  const std::string prefix = fmt::format("/mca_{}_", framework);
  std::set<std::string> names;
  for (std::size_t at = maps.find(prefix); at != std::string_view::npos;
       at = maps.find(prefix, at + 1)) {
    const std::size_t begin = at + prefix.size();
    names.emplace(maps.substr(begin, maps.find(".so", begin) - begin));
  }
  return names;
}

std::string listed(const std::set<std::string>& names) {
  return join(std::vector<std::string>(names.begin(), names.end()), ", ");
}

int number_from_environment(const char* name) {
  const char* const value = std::getenv(name);
  return value != nullptr ? std::atoi(value) : 0;
}

}  // namespace

std::string mpi_library() {
  const std::string full = library_text();
  return full.substr(0, full.find_first_of(",\n"));
}

std::string mpi_threads() {
  int level = MPI_THREAD_SINGLE;
  MPI_Query_thread(&level);
  switch (level) {
    case MPI_THREAD_MULTIPLE:
      return "multiple";
    case MPI_THREAD_SERIALIZED:
      return "serialized";
    case MPI_THREAD_FUNNELED:
      return "funneled";
    default:
      return "single";
  }
}

std::string transport_of(std::string_view maps, std::string_view library) {
  const std::set<std::string> layers = components(maps, "pml");
  for (const char* const layer : {"ucx", "cm", "ob1"}) {
    if (layers.contains(layer)) {
      const auto below = components(maps, std::string_view(layer) == "cm" ? "mtl" : "btl");
      const bool named = std::string_view(layer) == "ucx" || below.empty();
      return named ? layer : fmt::format("{} ({})", layer, listed(below));
    }
  }
  constexpr std::string_view kDevice = "MPICH Device:";  // its library says "ch4:ofi"
  if (const std::size_t at = library.find(kDevice); at != std::string_view::npos) {
    const std::string_view rest = library.substr(at + kDevice.size());
    return std::string(trim(rest.substr(0, rest.find('\n'))));
  }
  return "unknown";
}

std::string mpi_transport() {
  std::ifstream in("/proc/self/maps");
  std::ostringstream maps;
  maps << in.rdbuf();
  return transport_of(maps.str(), library_text());
}

std::string mpi_text() {
  return fmt::format("{}, threads {}, transport {}", mpi_library(), mpi_threads(), mpi_transport());
}

std::vector<std::string> active_infiniband(const fs::path& sys) {
  std::vector<std::string> devices;
  std::error_code none;
  for (fs::directory_iterator device(sys, none), end; !none && device != end;
       device.increment(none)) {
    std::error_code no_ports;
    for (fs::directory_iterator port(device->path() / "ports", no_ports); !no_ports && port != end;
         port.increment(no_ports)) {
      const bool active = first_line(port->path() / "state").find("ACTIVE") != std::string::npos;
      if (active && first_line(port->path() / "link_layer") == "InfiniBand") {
        devices.push_back(device->path().filename().string());
        break;
      }
    }
  }
  std::sort(devices.begin(), devices.end());
  return devices;
}

std::string slow_transport(std::string_view transport, const std::vector<std::string>& devices) {
  const bool tcp = transport.find("tcp") != std::string_view::npos;
  const bool fast = transport.find("openib") != std::string_view::npos ||
                    transport.find("uct") != std::string_view::npos;
  if (devices.empty() || !tcp || fast) {
    return {};
  }
  return fmt::format(
      "this host has InfiniBand ({}), but MPI sends over {}, some ten times slower: use an MPI "
      "that "
      "was built with UCX or libfabric (ompi_info | grep ucx; mpirun --mca pml ucx)",
      join(devices, ", "), transport);
}

void check_launch(const Communicator& world) {
  const int tasks = number_from_environment("SLURM_STEP_NUM_TASKS");
  if (world.size() == 1 && tasks > 1 && number_from_environment("SLURM_PROCID") == 0) {
    log::warn(fmt::format(
        "srun has started {} tasks, but each of them is a job of one rank: MPI and srun do not "
        "find each other. Use srun --mpi=pmix (srun --mpi=list shows what there is; MOESAIC_SRUN "
        "in the site file of slurm/), or mpirun",
        tasks));
  }
  Communicator host = world.split_by_host();
  const bool one_host = host.size() == world.size();
  host.close();
  if (!one_host && world.is_root()) {
    const std::string warning =
        slow_transport(mpi_transport(), active_infiniband("/sys/class/infiniband"));
    if (!warning.empty()) {
      log::warn(warning);
    }
  }
}

}  // namespace moesaic::comm
