#include "backend/cuda/error.h"

#include <fmt/format.h>

#include <atomic>

namespace moesaic::cuda {
namespace {

std::atomic<const char*> last_file{nullptr};
std::atomic<int> last_line{0};

}  // namespace

void note_launch(Where where) {
  last_file.store(where.file, std::memory_order_relaxed);
  last_line.store(where.line, std::memory_order_relaxed);
}

void check(cudaError_t result, std::string_view what, Where where) {
  if (result == cudaSuccess) {
    return;
  }
  const char* const file = last_file.load(std::memory_order_relaxed);
  const std::string launch =
      file == nullptr ? "none" : fmt::format("{}:{}", file, last_line.load());
  throw Error(Exit::kInternal,
              fmt::format("CUDA: {}: {} ({}); last launch: {}", what, cudaGetErrorString(result),
                          cudaGetErrorName(result), launch),
              where);
}

}  // namespace moesaic::cuda
