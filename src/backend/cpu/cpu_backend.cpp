#include "backend/cpu/cpu_backend.h"

#include <cstring>

#include "backend/cpu/host_memory.h"

namespace moesaic {

std::unique_ptr<Backend> make_cpu_backend(int threads, bool matrix_units) {
  cpu::InstructionSet set = cpu::best_kernels();
  set.matrix_units = set.matrix_units && matrix_units;
  return std::make_unique<cpu::CpuBackend>(threads, set);
}

namespace cpu {

CpuBackend::CpuBackend(int threads, InstructionSet set)
    : threads_(threads), set_(set), memory_pool_(host_memory()), matmul_(threads, set) {
  require(threads >= 1, "a backend needs a thread");
  omp_set_num_threads(threads);
}

Tensor CpuBackend::empty(DType dtype, const Shape& shape) {
  std::shared_ptr<void> block =
      memory_pool_.take(static_cast<std::size_t>(shape.numel()) * size_of(dtype));
  auto* data = static_cast<std::byte*>(block.get());
  return {std::move(block), data, dtype, shape, Location::kHost};
}

void CpuBackend::upload(std::span<const std::byte> host, const Tensor& to) {
  require(host.size() == to.bytes(), "upload of another size");
  std::copy(host.begin(), host.end(), to.data());
}

void CpuBackend::download(std::span<const Download> parts) {
  count_waits();
  for (const Download& part : parts) {
    require(part.to.size() == part.from.bytes(), "download of another size");
    std::copy_n(part.from.data(), part.to.size(), part.to.begin());
  }
}

void CpuBackend::zero(const Tensor& x) {
  share(static_cast<std::int64_t>(x.bytes()),
        [&](std::int64_t begin, std::int64_t end, std::int64_t) {
          std::memset(x.data() + begin, 0, static_cast<std::size_t>(end - begin));
        });
}

}  // namespace cpu
}  // namespace moesaic
