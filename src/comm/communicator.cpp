#include "comm/communicator.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <numeric>

#include "base/io_error.h"

namespace moesaic::comm {
namespace {

template <class T>
MPI_Datatype mpi_type();
template <>
MPI_Datatype mpi_type<float>() {
  return MPI_FLOAT;
}
template <>
MPI_Datatype mpi_type<double>() {
  return MPI_DOUBLE;
}
template <>
MPI_Datatype mpi_type<std::int32_t>() {
  return MPI_INT32_T;
}
template <>
MPI_Datatype mpi_type<std::int64_t>() {
  return MPI_INT64_T;
}
template <>
MPI_Datatype mpi_type<std::uint64_t>() {
  return MPI_UINT64_T;
}
template <>
MPI_Datatype mpi_type<std::uint8_t>() {
  return MPI_UINT8_T;
}

MPI_Op mpi_op(Reduce op) {
  switch (op) {
    case Reduce::kSum:
      return MPI_SUM;
    case Reduce::kMax:
      return MPI_MAX;
    case Reduce::kMin:
      return MPI_MIN;
  }
  return MPI_OP_NULL;
}

// Where each rank's part begins when parts of these lengths follow each other.
std::vector<int> begins(const std::vector<int>& lengths) {
  std::vector<int> begin(lengths.size(), 0);
  std::int64_t total = 0;
  for (std::size_t r = 0; r < lengths.size(); ++r) {
    begin[r] = mpi_count(static_cast<std::size_t>(total));
    total += lengths[r];
  }
  mpi_count(static_cast<std::size_t>(total));
  return begin;
}

// World ranks of a communicator, which must lie in runs that are evenly spaced, as they are.
Members members_of(MPI_Comm comm, int size) {
  MPI_Group group = MPI_GROUP_NULL;
  MPI_Group world = MPI_GROUP_NULL;
  MPI_Comm_group(comm, &group);
  MPI_Comm_group(MPI_COMM_WORLD, &world);
  std::vector<int> own(static_cast<std::size_t>(size));
  std::iota(own.begin(), own.end(), 0);
  std::vector<int> ranks(own.size());
  MPI_Group_translate_ranks(group, size, own.data(), world, ranks.data());
  MPI_Group_free(&group);
  MPI_Group_free(&world);
  Members members{.first = ranks.front(), .count = size};
  members.stride = size > 1 ? ranks[1] - ranks[0] : 1;
  const auto fits = [&](std::size_t i) { return members.rank(static_cast<int>(i)) == ranks[i]; };
  for (std::size_t i = 0; i < ranks.size(); ++i) {
    if (!fits(i) && members.run == 0) {
      members.run = static_cast<std::int32_t>(i);
      members.jump = ranks[i] - ranks.front();
    }
    require(fits(i), "a group whose ranks are not evenly spaced");
  }
  return members;
}

// Collective: values that lie apart, reduced in one call.
template <class T>
void reduce_each(const Communicator& group, std::initializer_list<std::reference_wrapper<T>> values,
                 Reduce op) {
  std::vector<T> all(values.begin(), values.end());
  group.all_reduce(std::span(all), op);
  auto next = all.begin();
  for (T& value : values) {
    value = *next++;
  }
}

}  // namespace

int mpi_count(std::size_t count) {
  if (count > static_cast<std::size_t>(std::numeric_limits<int>::max())) {
    throw Error(Exit::kInternal,
                fmt::format("{} elements in one MPI message, above the limit of 2^31 - 1", count));
  }
  return static_cast<int>(count);
}

Communicator::Communicator(MPI_Comm comm, bool owned) : comm_(comm), owned_(owned) {
  MPI_Comm_rank(comm_, &rank_);
  MPI_Comm_size(comm_, &size_);
}

Communicator Communicator::world(Ledger* ledger) {
  Communicator world(MPI_COMM_WORLD, false);
  world.record_in(ledger, Group::kWorld);
  return world;
}

Communicator Communicator::split(int color, int key) const {
  if (comm_ == MPI_COMM_NULL) {
    return {};
  }
  MPI_Comm part = MPI_COMM_NULL;
  MPI_Comm_split(comm_, color, key, &part);
  return Communicator(part, true);
}

Communicator Communicator::split_by_host() const {
  if (comm_ == MPI_COMM_NULL) {
    return {};
  }
  MPI_Comm part = MPI_COMM_NULL;
  MPI_Comm_split_type(comm_, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &part);
  return Communicator(part, true);
}

void Communicator::close() {
  if (owned_ && comm_ != MPI_COMM_NULL) {
    MPI_Comm_free(&comm_);
  }
  *this = Communicator();
}

void Communicator::record_in(Ledger* ledger, Group group) {
  ledger_ = size_ > 1 ? ledger : nullptr;
  group_ = group;
  if (ledger_ != nullptr) {
    ledger_->add(group, members_of(comm_, size_));
  }
}

Ledger::Entry Communicator::enter(Operation operation) const {
  return enter_started(operation, start());
}

Ledger::Entry Communicator::enter_message(Operation operation, int member) const {
  if (ledger_ != nullptr) {
    ledger_->enter({group_, operation, ledger_->rank_of(group_, member), 0});
  }
  return Ledger::Entry(ledger_);
}

std::int64_t Communicator::start() const { return ledger_ != nullptr ? ledger_->begin(group_) : 0; }

Ledger::Entry Communicator::enter_started(Operation operation, std::int64_t number) const {
  if (ledger_ != nullptr) {
    ledger_->enter({group_, operation, -1, number});
  }
  return Ledger::Entry(ledger_);
}

void Communicator::launched(Operation operation, std::function<bool()> ended) const {
  if (ledger_ != nullptr) {
    ledger_->launch({group_, operation, -1, start()}, std::move(ended));
  }
}

void Communicator::launched_message(Operation operation, int member,
                                    std::function<bool()> ended) const {
  if (ledger_ != nullptr) {
    ledger_->launch({group_, operation, ledger_->rank_of(group_, member), 0}, std::move(ended));
  }
}

template <class T>
void Communicator::all_reduce(std::span<T> inout, Reduce op) const {
  if (size_ > 1) {
    const Ledger::Entry entry = enter(Operation::kAllReduce);
    MPI_Allreduce(MPI_IN_PLACE, inout.data(), mpi_count(inout.size()), mpi_type<T>(), mpi_op(op),
                  comm_);
  }
}

void Communicator::sum(std::initializer_list<std::reference_wrapper<double>> values) const {
  reduce_each(*this, values, Reduce::kSum);
}

void Communicator::max(std::initializer_list<std::reference_wrapper<std::int32_t>> values) const {
  reduce_each(*this, values, Reduce::kMax);
}

template <class T>
void Communicator::broadcast(std::span<T> inout, int root) const {
  if (size_ > 1) {
    const Ledger::Entry entry = enter(Operation::kBroadcast);
    MPI_Bcast(inout.data(), mpi_count(inout.size()), mpi_type<T>(), root, comm_);
  }
}

void Communicator::broadcast(std::string& inout, int root) const {
  std::int64_t size = std::ssize(inout);
  broadcast(std::span<std::int64_t>(&size, 1), root);
  inout.resize(static_cast<std::size_t>(size));
  broadcast(std::span(reinterpret_cast<std::uint8_t*>(inout.data()), inout.size()), root);
}

template <class T>
std::vector<T> Communicator::all_gather(std::span<const T> values) const {
  if (size_ == 1) {
    return {values.begin(), values.end()};
  }
  const Ledger::Entry entry = enter(Operation::kAllGather);
  const int mine = mpi_count(values.size());
  std::vector<int> lengths(static_cast<std::size_t>(size_));
  MPI_Allgather(&mine, 1, MPI_INT, lengths.data(), 1, MPI_INT, comm_);
  const std::vector<int> begin = begins(lengths);
  std::vector<T> all(static_cast<std::size_t>(begin.back()) +
                     static_cast<std::size_t>(lengths.back()));
  MPI_Allgatherv(values.data(), mine, mpi_type<T>(), all.data(), lengths.data(), begin.data(),
                 mpi_type<T>(), comm_);
  return all;
}

template <class T>
std::vector<T> Communicator::gather(std::span<const T> values, int root) const {
  if (size_ == 1) {
    return {values.begin(), values.end()};
  }
  const Ledger::Entry entry = enter(Operation::kGather);
  const int mine = mpi_count(values.size());
  std::vector<int> lengths(rank_ == root ? static_cast<std::size_t>(size_) : 0);
  MPI_Gather(&mine, 1, MPI_INT, lengths.data(), 1, MPI_INT, root, comm_);
  const std::vector<int> begin = begins(lengths);
  std::vector<T> all;
  if (rank_ == root) {
    all.resize(static_cast<std::size_t>(begin.back()) + static_cast<std::size_t>(lengths.back()));
  }
  MPI_Gatherv(values.data(), mine, mpi_type<T>(), all.data(), lengths.data(), begin.data(),
              mpi_type<T>(), root, comm_);
  return all;
}

std::vector<std::string> Communicator::gather(const std::string& text, int root,
                                              std::int64_t piece) const {
  const std::int64_t size = std::ssize(text);
  const auto sizes = gather(std::span<const std::int64_t>(&size, 1), root);
  const std::int64_t longest = all_reduce(size, Reduce::kMax);
  const std::int64_t share = std::max<std::int64_t>(1, piece / size_);
  std::vector<std::string> texts(sizes.size());
  for (std::int64_t begin = 0; begin < longest; begin += share) {
    const auto part_of = [&](std::int64_t length) {
      return static_cast<std::size_t>(std::clamp<std::int64_t>(length - begin, 0, share));
    };
    const std::size_t first = std::min(text.size(), static_cast<std::size_t>(begin));
    const auto* const bytes = reinterpret_cast<const std::uint8_t*>(text.data()) + first;
    const auto received = gather(std::span(bytes, part_of(size)), root);
    const auto* from = reinterpret_cast<const char*>(received.data());
    for (std::size_t r = 0; r < texts.size(); ++r) {
      texts[r].append(from, part_of(sizes[r]));
      from += part_of(sizes[r]);
    }
  }
  return texts;
}

template <class T>
std::vector<std::vector<T>> Communicator::all_to_all(
    const std::vector<std::vector<T>>& send) const {
  require(std::ssize(send) == size_, "all_to_all needs one part for each rank");
  if (size_ == 1) {
    return send;
  }
  std::vector<int> send_lengths;
  std::vector<T> packed;
  for (const auto& part : send) {
    send_lengths.push_back(mpi_count(part.size()));
    packed.insert(packed.end(), part.begin(), part.end());
  }
  std::vector<int> lengths(send.size());
  const Ledger::Entry entry = enter(Operation::kAllToAll);
  MPI_Alltoall(send_lengths.data(), 1, MPI_INT, lengths.data(), 1, MPI_INT, comm_);
  const std::vector<int> send_begin = begins(send_lengths);
  const std::vector<int> begin = begins(lengths);
  std::vector<T> received(static_cast<std::size_t>(begin.back()) +
                          static_cast<std::size_t>(lengths.back()));
  MPI_Alltoallv(packed.data(), send_lengths.data(), send_begin.data(), mpi_type<T>(),
                received.data(), lengths.data(), begin.data(), mpi_type<T>(), comm_);
  std::vector<std::vector<T>> parts;
  for (std::size_t r = 0; r < lengths.size(); ++r) {
    const auto first = received.begin() + begin[r];
    parts.emplace_back(first, first + lengths[r]);
  }
  return parts;
}

void Communicator::barrier() const {
  if (size_ > 1) {
    const Ledger::Entry entry = enter(Operation::kBarrier);
    MPI_Barrier(comm_);
  }
}

void Communicator::together(std::string_view what, const std::function<void()>& step) const {
  Exit code = Exit::kDone;
  std::string message;
  Where where = Where::here();
  if (ledger_ != nullptr) {
    ledger_->set_task(what);
  }
  const auto fail = [&](const Error& error) {
    code = error.code();
    message = error.what();
    where = error.where();
  };
  try {
    step();
  } catch (const Error& error) {
    fail(error);
  } catch (const std::filesystem::filesystem_error& error) {
    fail(to_error(error));
  } catch (const std::exception& error) {
    code = Exit::kInternal;
    message = fmt::format("{}: {}", what, error.what());
  }
  const int failing = all_reduce(code == Exit::kDone ? size_ : rank_, Reduce::kMin);
  if (ledger_ != nullptr) {
    ledger_->set_task({});
  }
  if (failing == size_) {
    return;
  }
  auto agreed = static_cast<std::int32_t>(code);
  broadcast(std::span<std::int32_t>(&agreed, 1), failing);
  broadcast(message, failing);
  throw AgreedError(static_cast<Exit>(agreed), message, where);
}

// The element types of the control plane.
template void Communicator::all_reduce(std::span<float>, Reduce) const;
template void Communicator::all_reduce(std::span<double>, Reduce) const;
template void Communicator::all_reduce(std::span<std::int32_t>, Reduce) const;
template void Communicator::all_reduce(std::span<std::int64_t>, Reduce) const;
template void Communicator::all_reduce(std::span<std::uint64_t>, Reduce) const;
template void Communicator::broadcast(std::span<std::uint8_t>, int) const;
template void Communicator::broadcast(std::span<float>, int) const;
template void Communicator::broadcast(std::span<double>, int) const;
template void Communicator::broadcast(std::span<std::int32_t>, int) const;
template void Communicator::broadcast(std::span<std::int64_t>, int) const;
template void Communicator::broadcast(std::span<std::uint64_t>, int) const;
template std::vector<std::uint8_t> Communicator::all_gather(std::span<const std::uint8_t>) const;
template std::vector<std::int32_t> Communicator::all_gather(std::span<const std::int32_t>) const;
template std::vector<float> Communicator::all_gather(std::span<const float>) const;
template std::vector<double> Communicator::all_gather(std::span<const double>) const;
template std::vector<std::int64_t> Communicator::all_gather(std::span<const std::int64_t>) const;
template std::vector<std::uint64_t> Communicator::all_gather(std::span<const std::uint64_t>) const;
template std::vector<std::uint8_t> Communicator::gather(std::span<const std::uint8_t>, int) const;
template std::vector<float> Communicator::gather(std::span<const float>, int) const;
template std::vector<double> Communicator::gather(std::span<const double>, int) const;
template std::vector<std::int64_t> Communicator::gather(std::span<const std::int64_t>, int) const;
template std::vector<std::vector<std::uint8_t>> Communicator::all_to_all(
    const std::vector<std::vector<std::uint8_t>>&) const;
template std::vector<std::vector<std::int64_t>> Communicator::all_to_all(
    const std::vector<std::vector<std::int64_t>>&) const;
template std::vector<std::vector<std::uint64_t>> Communicator::all_to_all(
    const std::vector<std::vector<std::uint64_t>>&) const;

}  // namespace moesaic::comm
