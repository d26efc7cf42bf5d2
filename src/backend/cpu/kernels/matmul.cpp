#include "backend/cpu/kernels/matmul.h"

namespace moesaic::cpu::MOESAIC_ISA {

template <class A, class C>
void gemm(const Gemm<A, C>& g, void* scratch) {
  multiply<Fma>(g, scratch);
}

template void gemm(const Gemm<float, float>&, void*);
template void gemm(const Gemm<BFloat16, float>&, void*);
template void gemm(const Gemm<BFloat16, BFloat16>&, void*);

}  // namespace moesaic::cpu::MOESAIC_ISA
