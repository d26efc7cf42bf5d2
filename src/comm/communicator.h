#pragma once

#include <mpi.h>

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "comm/ledger.h"

namespace moesaic::comm {

/// An error that every rank of the world throws alike, so that the job can end in an orderly way.
class AgreedError : public Error {
 public:
  using Error::Error;
};

enum class Reduce { kSum, kMax, kMin };

/// A set of ranks and its control plane: host data, blocking calls. Owns its MPI_Comm, released by
/// close(). In a group of one every collective is a no-op (or a copy).
class Communicator {
 public:
  Communicator() = default;  // a group of one that needs no MPI
  /// All ranks of the job (MPI_COMM_WORLD). Not collective.
  static Communicator world(Ledger* ledger = nullptr);
  Communicator(Communicator&&) noexcept = default;
  Communicator& operator=(Communicator&&) noexcept = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;
  ~Communicator() = default;

  /// Collective over this group: ranks of equal color, ordered by key.
  Communicator split(int color, int key) const;
  /// Collective over this group: the ranks that share this rank's host.
  Communicator split_by_host() const;
  /// Collective over this group. Destructors never communicate.
  void close();

  /// From now on the ledger, which must outlive this, holds what blocks here. Not collective.
  void record_in(Ledger* ledger, Group group);
  Ledger* ledger() const { return ledger_; }  // may be absent
  Group kind() const { return group_; }
  /// For calls on handle(), around what blocks: a collective, or a message of another member.
  [[nodiscard]] Ledger::Entry enter(Operation operation) const;
  [[nodiscard]] Ledger::Entry enter_message(Operation operation, int member) const;
  /// The number of a collective that starts now, and around the wait for it.
  std::int64_t start() const;
  [[nodiscard]] Ledger::Entry enter_started(Operation operation, std::int64_t number) const;
  /// The device has got a collective, or a message of another member, until `ended`.
  void launched(Operation operation, std::function<bool()> ended) const;
  void launched_message(Operation operation, int member, std::function<bool()> ended) const;

  int rank() const { return rank_; }
  int size() const { return size_; }
  bool is_root() const { return rank_ == 0; }
  MPI_Comm handle() const { return comm_; }

  // Everything below is collective over this group. T: float, double, int32, int64, uint64, byte.
  /// inout becomes the reduction over the group, element by element, on every rank; equal lengths.
  template <class T>
  void all_reduce(std::span<T> inout, Reduce op) const;
  template <class T>
  T all_reduce(T value, Reduce op) const {
    all_reduce(std::span<T>(&value, 1), op);
    return value;
  }
  /// Each of these becomes its sum, or the largest, over the group, in one call:
  /// `world.sum({loss, tokens})`.
  void sum(std::initializer_list<std::reference_wrapper<double>> values) const;
  void max(std::initializer_list<std::reference_wrapper<std::int32_t>> values) const;
  /// inout becomes root's values on every rank; equal lengths.
  template <class T>
  void broadcast(std::span<T> inout, int root) const;
  /// inout becomes root's text on every rank, whatever its length was there.
  void broadcast(std::string& inout, int root) const;
  /// Every rank's values in rank order, on every rank; lengths may differ.
  template <class T>
  std::vector<T> all_gather(std::span<const T> values) const;
  /// Every rank's values in rank order, on root alone (empty elsewhere).
  template <class T>
  std::vector<T> gather(std::span<const T> values, int root) const;
  /// Every rank's text in rank order, on root alone (empty elsewhere). Goes in pieces of about
  /// `piece` bytes from all ranks together, so that the sum has no limit.
  std::vector<std::string> gather(const std::string& text, int root,
                                  std::int64_t piece = std::int64_t{1} << 29U) const;
  /// send[r] goes to rank r; returns what each rank sent here, in rank order.
  template <class T>
  std::vector<std::vector<T>> all_to_all(const std::vector<std::vector<T>>& send) const;
  /// Returns when all ranks of the group have called it.
  void barrier() const;

  /// Runs step on every rank; if it throws anywhere, every rank throws the lowest failing rank's
  /// message and exit code as an AgreedError. step itself must not communicate over this group.
  void together(std::string_view what, const std::function<void()>& step) const;

 private:
  explicit Communicator(MPI_Comm comm, bool owned);

  MPI_Comm comm_ = MPI_COMM_NULL;
  bool owned_ = false;
  int rank_ = 0;
  int size_ = 1;
  Ledger* ledger_ = nullptr;
  Group group_ = Group::kWorld;
};

/// The checked conversion of a count to MPI's int.
int mpi_count(std::size_t count);

}  // namespace moesaic::comm
