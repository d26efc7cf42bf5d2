#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/row_groups.h"

namespace moesaic::cpu {

void CpuBackend::rope(const Tensor& x, const RowGroups& heads, const Tensor& position,
                      const Tensor& frequency, const RopeOptions& options, Direction direction) {
  const Rotation rotation{.interleave = options.interleave,
                          .magnitude = options.magnitude,
                          .sign = direction == Direction::kForward ? 1.0F : -1.0F};
  with_kernels(x.dtype(), [&](const auto& kernels, auto type) {
    using A = decltype(type);
    share(x.dim(0), [&](std::int64_t begin, std::int64_t end, std::int64_t) {
      kernels.rope(row<A>(x, begin), groups_of(x, heads),
                   position.as<std::int32_t>().data() + begin, frequency.as<float>().data(),
                   rotation, end - begin);
    });
  });
}

}  // namespace moesaic::cpu
