// Products with bf16 dot products.
#include "backend/cpu/kernels/matmul.h"
#include "backend/cpu/kernels/pairs.h"

namespace moesaic::cpu::MOESAIC_ISA {

template <class A, class C>
void gemm(const Gemm<A, C>& g, void* scratch) {
  multiply<Pairs>(g, scratch);
}

template void gemm(const Gemm<BFloat16, float>&, void*);
template void gemm(const Gemm<BFloat16, BFloat16>&, void*);

}  // namespace moesaic::cpu::MOESAIC_ISA
