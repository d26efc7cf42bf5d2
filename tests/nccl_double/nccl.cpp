// NCCL over MPI, between host memories: every call is recorded, and carried out by the thread of
// its stream, where a message waits until both ends are there.
#include <mpi.h>
#include <nccl.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <thread>
#include <vector>

#include "nccl_double/streams.h"

using moesaic::nccl_double::Call;
using moesaic::nccl_double::CommFacts;
using moesaic::nccl_double::Part;
using moesaic::nccl_double::record;
using moesaic::nccl_double::Step;

struct ncclComm {
  MPI_Comm mpi = MPI_COMM_NULL;
  std::int64_t number = 0;
  std::vector<int> members;  // world ranks
  std::int64_t family = 0;
  bool shares = false;
  std::atomic<int> open = 0;  // calls under way
};

namespace {

constexpr int kNumbersOfRank = 100'000;  // of communicators that begin with one id
constexpr int kJoinTag = 20'000;

int world_rank() {
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  return rank;
}

void fail(const char* what) {
  std::fprintf(stderr, "nccl_double: rank %d: %s\n", world_rank(), what);
  std::fflush(stderr);
  MPI_Abort(MPI_COMM_WORLD, EXIT_FAILURE);
}

void wait_for(std::vector<MPI_Request> requests) {
  constexpr auto kLimit = std::chrono::minutes(4);
  constexpr auto kNap = std::chrono::microseconds(50);
  const auto begin = std::chrono::steady_clock::now();
  int done = 0;
  while (true) {
    MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done, MPI_STATUSES_IGNORE);
    if (done != 0) {
      return;
    }
    if (std::chrono::steady_clock::now() - begin > kLimit) {
      fail("a call has waited for minutes");
    }
    std::this_thread::sleep_for(kNap);
  }
}

MPI_Datatype mpi_type(ncclDataType_t type) {
  return type == ncclFloat ? MPI_FLOAT : type == ncclInt32 ? MPI_INT32_T : MPI_BYTE;
}
std::size_t size_of(ncclDataType_t type) { return type == ncclInt8 ? 1 : 4; }
MPI_Op mpi_op(ncclRedOp_t op) { return op == ncclSum ? MPI_SUM : MPI_MAX; }

// Calls of one group, which are carried out together: messages at once, collectives in order.
struct Batch {
  ncclComm_t comm = nullptr;
  cudaStream_t stream = nullptr;
  std::vector<Part> parts;
  std::vector<std::function<MPI_Request()>> messages;
  std::vector<std::function<void()>> collectives;
};
int depth = 0;
Batch batch;

void submit() {
  if (batch.parts.empty()) {
    return;
  }
  ncclComm_t const comm = batch.comm;
  record().steps.push_back({.kind = Step::Kind::kCalls,
                            .stream = moesaic::nccl_double::number_of(batch.stream),
                            .comm = comm->number,
                            .parts = std::move(batch.parts)});
  ++comm->open;
  moesaic::nccl_double::queue(batch.stream, [comm, messages = std::move(batch.messages),
                                             collectives = std::move(batch.collectives)] {
    std::vector<MPI_Request> requests;
    for (const auto& message : messages) {
      requests.push_back(message());
    }
    wait_for(std::move(requests));
    for (const auto& collective : collectives) {
      collective();
    }
    --comm->open;
  });
  batch = {};
}

ncclResult_t add(ncclComm_t comm, cudaStream_t stream, Part part,
                 std::function<MPI_Request()> message, std::function<void()> collective) {
  if (batch.comm != nullptr && (batch.comm != comm || batch.stream != stream)) {
    return ncclInvalidUsage;
  }
  batch.comm = comm;
  batch.stream = stream;
  batch.parts.push_back(part);
  if (message) {
    batch.messages.push_back(std::move(message));
  } else {
    batch.collectives.push_back(std::move(collective));
  }
  if (depth == 0) {
    submit();
  }
  return ncclSuccess;
}

ncclResult_t add_collective(ncclComm_t comm, cudaStream_t stream, Call call, int root,
                            std::size_t bytes, std::function<MPI_Request()> begin) {
  const Part part{call, root < 0 ? -1 : comm->members[static_cast<std::size_t>(root)],
                  static_cast<std::int64_t>(bytes)};
  return add(comm, stream, part, {}, [begin = std::move(begin)] { wait_for({begin()}); });
}

int rank_in(ncclComm_t comm) {
  int rank = 0;
  MPI_Comm_rank(comm->mpi, &rank);
  return rank;
}

void keep(ncclComm_t comm, const ncclConfig_t* config) {
  const int blocks =
      config == nullptr || config->maxCTAs == NCCL_CONFIG_UNDEF_INT ? 0 : config->maxCTAs;
  record().comms[comm->number] = {comm->members, comm->family, blocks};
}

std::vector<int> world_ranks(MPI_Comm comm) {
  int size = 0;
  MPI_Comm_size(comm, &size);
  std::vector<int> ranks(static_cast<std::size_t>(size));
  const int own = world_rank();
  MPI_Allgather(&own, 1, MPI_INT, ranks.data(), 1, MPI_INT, comm);
  return ranks;
}

// Counts are ints, as the sizes of tests are.
int count_of(std::size_t count) { return static_cast<int>(count); }

}  // namespace

const char* ncclGetErrorString(ncclResult_t result) {
  return result == ncclInvalidUsage ? "invalid usage" : "an error";
}
const char* ncclGetLastError(ncclComm_t /*comm*/) { return ""; }

ncclResult_t ncclGetVersion(int* version) {
  *version = 22809;
  return ncclSuccess;
}

// The rank that made it, and how many it had made.
ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  static std::int64_t made = 0;
  *id = {};
  const std::int64_t number = std::int64_t{world_rank()} * kNumbersOfRank + ++made;
  std::memcpy(id->internal, &number, sizeof number);
  return ncclSuccess;
}

// The first rank, which made the id, learns who the others are and tells them.
ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
  std::int64_t number = 0;
  std::memcpy(&number, id.internal, sizeof number);
  const int maker = static_cast<int>(number / kNumbersOfRank);
  const int tag = kJoinTag + static_cast<int>(number % 1'000);
  std::vector<int> members(static_cast<std::size_t>(ranks));
  if (rank == 0) {
    members[0] = world_rank();
    for (int i = 1; i < ranks; ++i) {
      int answer[2] = {0, 0};
      MPI_Recv(answer, 2, MPI_INT, MPI_ANY_SOURCE, tag, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
      members[static_cast<std::size_t>(answer[0])] = answer[1];
    }
    for (int i = 1; i < ranks; ++i) {
      MPI_Send(members.data(), ranks, MPI_INT, members[static_cast<std::size_t>(i)], tag,
               MPI_COMM_WORLD);
    }
  } else {
    const int answer[2] = {rank, world_rank()};
    MPI_Send(answer, 2, MPI_INT, maker, tag, MPI_COMM_WORLD);
    MPI_Recv(members.data(), ranks, MPI_INT, maker, tag, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
  }
  MPI_Group world = MPI_GROUP_NULL, group = MPI_GROUP_NULL;
  MPI_Comm_group(MPI_COMM_WORLD, &world);
  MPI_Group_incl(world, ranks, members.data(), &group);
  auto* const made = new ncclComm;
  MPI_Comm_create_group(MPI_COMM_WORLD, group, tag, &made->mpi);
  MPI_Group_free(&group);
  MPI_Group_free(&world);
  made->members = members;
  made->number = made->family = number;
  made->shares = config != nullptr && config->splitShare == 1;
  keep(made, config);
  *comm = made;
  return ncclSuccess;
}

ncclResult_t ncclCommSplit(ncclComm_t comm, int color, int key, ncclComm_t* part,
                           ncclConfig_t* config) {
  MPI_Comm mpi = MPI_COMM_NULL;
  MPI_Comm_split(comm->mpi, color == NCCL_SPLIT_NOCOLOR ? MPI_UNDEFINED : color, key, &mpi);
  *part = nullptr;
  if (mpi == MPI_COMM_NULL) {
    return ncclSuccess;
  }
  auto* const made = new ncclComm;
  made->mpi = mpi;
  made->members = world_ranks(mpi);
  ncclUniqueId id;
  ncclGetUniqueId(&id);
  std::memcpy(&made->number, id.internal, sizeof made->number);
  MPI_Bcast(&made->number, 1, MPI_INT64_T, 0, mpi);
  made->shares = comm->shares;
  made->family = comm->shares ? comm->family : made->number;
  keep(made, config);
  *part = made;
  return ncclSuccess;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  while (comm->open > 0) {
    std::this_thread::yield();
  }
  MPI_Comm_free(&comm->mpi);
  delete comm;
  return ncclSuccess;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t /*comm*/, ncclResult_t* error) {
  *error = ncclSuccess;
  return ncclSuccess;
}

ncclResult_t ncclGroupStart() {
  ++depth;
  return ncclSuccess;
}

ncclResult_t ncclGroupEnd() {
  if (--depth == 0) {
    submit();
  }
  return ncclSuccess;
}

ncclResult_t ncclAllReduce(const void* from, void* to, size_t count, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
  return add_collective(comm, stream, Call::kAllReduce, -1, count * size_of(type), [=] {
    MPI_Request request = MPI_REQUEST_NULL;
    MPI_Iallreduce(from == to ? MPI_IN_PLACE : from, to, count_of(count), mpi_type(type),
                   mpi_op(op), comm->mpi, &request);
    return request;
  });
}

ncclResult_t ncclBroadcast(const void* from, void* to, size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream) {
  return add_collective(comm, stream, Call::kBroadcast, root, count * size_of(type), [=] {
    if (rank_in(comm) == root && from != to) {
      std::memcpy(to, from, count * size_of(type));
    }
    MPI_Request request = MPI_REQUEST_NULL;
    MPI_Ibcast(to, count_of(count), mpi_type(type), root, comm->mpi, &request);
    return request;
  });
}

ncclResult_t ncclReduce(const void* from, void* to, size_t count, ncclDataType_t type,
                        ncclRedOp_t op, int root, ncclComm_t comm, cudaStream_t stream) {
  return add_collective(comm, stream, Call::kReduce, root, count * size_of(type), [=] {
    const bool in_place = rank_in(comm) == root && from == to;
    MPI_Request request = MPI_REQUEST_NULL;
    MPI_Ireduce(in_place ? MPI_IN_PLACE : from, to, count_of(count), mpi_type(type), mpi_op(op),
                root, comm->mpi, &request);
    return request;
  });
}

ncclResult_t ncclAllGather(const void* from, void* to, size_t count, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream) {
  return add_collective(comm, stream, Call::kAllGather, -1, count * size_of(type), [=] {
    const std::size_t bytes = count * size_of(type);
    const char* const own =
        static_cast<char*>(to) + static_cast<std::size_t>(rank_in(comm)) * bytes;
    MPI_Request request = MPI_REQUEST_NULL;
    MPI_Iallgather(from == own ? MPI_IN_PLACE : from, count_of(count), mpi_type(type), to,
                   count_of(count), mpi_type(type), comm->mpi, &request);
    return request;
  });
}

ncclResult_t ncclReduceScatter(const void* from, void* to, size_t count, ncclDataType_t type,
                               ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
  const Part part{Call::kReduceScatter, -1, static_cast<std::int64_t>(count * size_of(type))};
  return add(comm, stream, part, {}, [=] {
    std::vector<char> result(count * size_of(type));
    MPI_Request request = MPI_REQUEST_NULL;
    MPI_Ireduce_scatter_block(from, result.data(), count_of(count), mpi_type(type), mpi_op(op),
                              comm->mpi, &request);
    wait_for({request});
    std::memcpy(to, result.data(), result.size());
  });
}

ncclResult_t ncclSend(const void* from, size_t count, ncclDataType_t type, int peer,
                      ncclComm_t comm, cudaStream_t stream) {
  const Part part{Call::kSend, comm->members[static_cast<std::size_t>(peer)],
                  static_cast<std::int64_t>(count * size_of(type))};
  return add(comm, stream, part,
             [=] {
               MPI_Request request = MPI_REQUEST_NULL;
               MPI_Issend(from, count_of(count), mpi_type(type), peer, 0, comm->mpi, &request);
               return request;
             },
             {});
}

ncclResult_t ncclRecv(void* to, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  const Part part{Call::kReceive, comm->members[static_cast<std::size_t>(peer)],
                  static_cast<std::int64_t>(count * size_of(type))};
  return add(comm, stream, part,
             [=] {
               MPI_Request request = MPI_REQUEST_NULL;
               MPI_Irecv(to, count_of(count), mpi_type(type), peer, 0, comm->mpi, &request);
               return request;
             },
             {});
}
