#pragma once

#include <mpi.h>

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "comm/communicator.h"
#include "tensor/tensor.h"

namespace moesaic::comm {

/// Rows of tensors as MPI types, so that counts stay below int's limit. They live as long as the
/// group's collectives: what is under way uses them.
class RowTypes {
 public:
  RowTypes() = default;
  ~RowTypes() {
    for (auto& [bytes, type] : types_) {
      MPI_Type_free(&type);
    }
  }
  RowTypes(const RowTypes&) = delete;
  RowTypes& operator=(const RowTypes&) = delete;

  MPI_Datatype of(const Tensor& rows) {
    const std::size_t bytes = static_cast<std::size_t>(rows.dim(1)) * size_of(rows.dtype());
    const auto [entry, added] = types_.try_emplace(bytes, MPI_DATATYPE_NULL);
    if (added) {
      MPI_Type_contiguous(mpi_count(bytes), MPI_BYTE, &entry->second);
      MPI_Type_commit(&entry->second);
    }
    return entry->second;
  }

 private:
  std::map<std::size_t, MPI_Datatype> types_;  // by bytes of a row
};

/// Parts of these sizes one after the other, as MPI wants them.
struct Parts {
  std::vector<int> count, begin;

  explicit Parts(std::span<const std::int64_t> sizes) {
    std::size_t total = 0;
    for (const std::int64_t n : sizes) {
      count.push_back(mpi_count(static_cast<std::size_t>(n)));
      begin.push_back(mpi_count(total));
      total += static_cast<std::size_t>(n);
    }
  }
};

}  // namespace moesaic::comm
