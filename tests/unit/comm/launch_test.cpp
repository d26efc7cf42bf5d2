// What is seen of MPI's transport, and when the program warns of it.
#include "comm/launch.h"

#include <gtest/gtest.h>

#include <fstream>

#include "support/temp_dir.h"

namespace moesaic::comm {
namespace {

namespace fs = std::filesystem;

constexpr const char* kTcp =
    "7f00-7f01 r-xp 0 08:01 1 /usr/lib/openmpi/mca_pml_ob1.so\n"
    "7f02-7f03 r-xp 0 08:01 2 /usr/lib/openmpi/mca_btl_vader.so\n"
    "7f02-7f03 r--p 0 08:01 2 /usr/lib/openmpi/mca_btl_vader.so\n"
    "7f04-7f05 r-xp 0 08:01 3 /usr/lib/openmpi/mca_btl_tcp.so\n";

// Protects: the trace says what carried the messages.
TEST(Launch, Transport) {
  EXPECT_EQ(transport_of(kTcp, "Open MPI v4.1.4"), "ob1 (tcp, vader)");
  EXPECT_EQ(transport_of("1-2 r /x/mca_pml_ucx.so\n1-2 r /x/mca_btl_tcp.so\n", "Open MPI v5"),
            "ucx");
  EXPECT_EQ(transport_of("1-2 r /x/mca_pml_cm.so\n1-2 r /x/mca_mtl_ofi.so\n", "Open MPI v4"),
            "cm (ofi)");
  EXPECT_EQ(transport_of("", "MPICH Version: 4.0\nMPICH Device:\tch4:ofi\nmore"), "ch4:ofi");
  EXPECT_EQ(transport_of("", "Some MPI"), "unknown");
  EXPECT_FALSE(mpi_library().empty());
  EXPECT_EQ(mpi_threads(), "multiple");
}

void add_device(const fs::path& sys, const std::string& name, const std::string& state,
                const std::string& layer) {
  const fs::path port = sys / name / "ports/1";
  fs::create_directories(port);
  std::ofstream(port / "state") << state << "\n";
  std::ofstream(port / "link_layer") << layer << "\n";
}

// Protects: a job that crawls over TCP beside idle InfiniBand is told so, and no other one.
TEST(Launch, InfinibandThatIsNotUsed) {
  const testing::TempDir dir;
  EXPECT_TRUE(active_infiniband(dir / "none").empty());
  add_device(dir.path(), "mlx5_1", "4: ACTIVE", "InfiniBand");
  add_device(dir.path(), "mlx5_0", "4: ACTIVE", "InfiniBand");
  add_device(dir.path(), "mlx5_2", "1: DOWN", "InfiniBand");
  add_device(dir.path(), "eth", "4: ACTIVE", "Ethernet");
  const auto devices = active_infiniband(dir.path());
  EXPECT_EQ(devices, (std::vector<std::string>{"mlx5_0", "mlx5_1"}));
  EXPECT_NE(slow_transport("ob1 (tcp, vader)", devices).find("mlx5_0, mlx5_1"), std::string::npos);
  EXPECT_EQ(slow_transport("ob1 (tcp, vader)", {}), "");
  EXPECT_EQ(slow_transport("ucx", devices), "");
  EXPECT_EQ(slow_transport("ob1 (openib, tcp)", devices), "");
  EXPECT_EQ(slow_transport("unknown", devices), "");
}

}  // namespace
}  // namespace moesaic::comm
