#include "backend/cpu/cpu_backend.h"

namespace moesaic::cpu {

void CpuBackend::softmax_stats(const Tensor& logits, const Tensor& target, const Tensor& stats,
                               const Tensor& best) {
  const std::int64_t vocab = logits.dim(1);
  share(logits.dim(0), [&](std::int64_t begin, std::int64_t end, std::int64_t) {
    set_.common->softmax_stats(logits.as<float>().data() + begin * vocab,
                               target.as<std::int32_t>().data() + begin,
                               stats.as<float>().data() + 3 * begin,
                               best.as<std::int32_t>().data() + begin, end - begin, vocab);
  });
}

void CpuBackend::divergence(const Tensor& reference, const Tensor& logits, const Tensor& log_sums,
                            const Tensor& divergence) {
  const std::int64_t vocab = logits.dim(1);
  share(logits.dim(0), [&](std::int64_t begin, std::int64_t end, std::int64_t) {
    set_.common->divergence(reference.as<float>().data() + begin * vocab,
                            logits.as<float>().data() + begin * vocab,
                            log_sums.as<float>().data() + 2 * begin,
                            divergence.as<float>().data() + begin, end - begin, vocab);
  });
}

void CpuBackend::cross_entropy_backward(const Tensor& logits, const Tensor& target,
                                        const Tensor& stats, const Tensor& weight,
                                        const Tensor& dlogits, const Tensor& spread) {
  const std::int64_t vocab = logits.dim(1);
  with_kernels(dlogits.dtype(), [&](const auto& kernels, auto type) {
    using A = decltype(type);
    share(logits.dim(0), [&](std::int64_t begin, std::int64_t end, std::int64_t) {
      kernels.cross_entropy_backward(
          logits.as<float>().data() + begin * vocab, target.as<std::int32_t>().data() + begin,
          stats.as<float>().data() + 3 * begin, weight.as<float>().data() + begin,
          dlogits.as<A>().data() + begin * vocab, spread.as<float>().data() + begin, end - begin,
          vocab);
    });
  });
}

}  // namespace moesaic::cpu
