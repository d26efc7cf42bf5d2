#include <cstring>

#include "backend/cpu/cpu_backend.h"

namespace moesaic::cpu {
namespace {

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

}  // namespace

void CpuBackend::embedding(const Tensor& table, const Tensor& token, const Tensor& y) {
  const std::int64_t dim = table.dim(1);
  const auto tokens = token.as<std::int32_t>();
  share(y.dim(0), [&](std::int64_t begin, std::int64_t end, std::int64_t) {
    for (std::int64_t t = begin; t < end; ++t) {
      const std::int64_t id = tokens[at(t)];
      float* row = y.as<float>().data() + t * dim;
      if (id >= 0 && id < table.dim(0)) {
        std::memcpy(row, table.as<float>().data() + id * dim, at(dim) * sizeof(float));
      } else {
        std::memset(row, 0, at(dim) * sizeof(float));
      }
    }
  });
}

void CpuBackend::embedding_backward(const Tensor& dy, const Tensor& token, const Tensor& dtable) {
  const std::int64_t dim = dtable.dim(1);
  const auto tokens = token.as<std::int32_t>();
  // Threads share the columns: two tokens of one kind never meet.
  share(dim, [&](std::int64_t begin, std::int64_t end, std::int64_t) {
    const float* row = dy.as<float>().data();
    for (const std::int32_t id : tokens) {
      if (id >= 0 && id < dtable.dim(0)) {
        set_.common->add(row + begin, dtable.as<float>().data() + id * dim + begin, end - begin);
      }
      row += dim;
    }
  });
}

}  // namespace moesaic::cpu
