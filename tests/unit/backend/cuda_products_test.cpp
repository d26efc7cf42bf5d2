// Protects that the cut of a CUDA product into blocks changes no bit, so that it may follow the
// number of rows and the device.
#include <fmt/format.h>

#include <array>
#include <string>

#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/products/product.h"
#include "unit/backend/kernel_test.h"

namespace moesaic::testing {
namespace {

using cuda::Cut;
using cuda::Groups;
using cuda::Inner;
using cuda::Product;

constexpr std::array kInners = {Inner::kDepth, Inner::kEdge};

class CudaProducts : public KernelTest {
 protected:
  Vector run(Product product, const Tensor& c, Cut cut) const {
    const auto& on = dynamic_cast<const cuda::CudaBackend&>(backend());
    product.c = c.data();
    product.narrow = c.dtype() == DType::kBf16;
    if (compute() == DType::kF32) {
      multiply_fp32(on.stream(), product, cut);
    } else {
      multiply_bf16(on.stream(), product, cut);
    }
    return download(c);
  }

  // make() is c as it is before.
  template <class Make>
  void expect_same_bits(const Product& product, const Make& make, const std::string& what) const {
    const Vector medium = run(product, make(), Cut::kMedium);
    for (const Cut cut : {Cut::kTiny, Cut::kSmall, Cut::kLarge}) {
      EXPECT_EQ(medium, run(product, make(), cut)) << what << ", cut " << static_cast<int>(cut);
    }
  }

  Product product_of(const Tensor& a, Inner a_inner, const Tensor& b, Inner b_inner, int m, int n,
                     int k) const {
    const std::int64_t chunk = compute() == DType::kF32 ? 4 : 8;
    Product p;
    p.a = a.data();
    p.b = b.data();
    p.a_inner = a_inner;
    p.b_inner = b_inner;
    p.m = m;
    p.n = n;
    p.k = k;
    p.a_stride = a_inner == Inner::kDepth ? k : m;
    p.b_stride = b_inner == Inner::kDepth ? k : n;
    p.c_stride = n;
    p.wide = p.a_stride % chunk == 0 && p.b_stride % chunk == 0;
    p.pairs = n % 2 == 0;
    return p;
  }
};

TEST_P(CudaProducts, AllCutsGiveTheSameBits) {
  for (const auto& size : {std::array{136, 72, 264}, {67, 37, 299}, {7, 40, 1032}}) {
    const int m = size[0];
    const int n = size[1];
    const int k = size[2];
    const Tensor a = upload(random({m, k}, "a", compute()), {m, k}, compute());
    const Tensor b = upload(random({n, k}, "b", compute()), {n, k}, compute());
    for (const Inner a_inner : kInners) {
      for (const Inner b_inner : kInners) {
        const Product p = product_of(a, a_inner, b, b_inner, m, n, k);
        for (const DType out : {DType::kF32, compute()}) {
          expect_same_bits(
              p,
              [&] {
                return poisoned({m, n}, out);
              },
              fmt::format("{} {} {}, {} {}", m, n, k, static_cast<int>(a_inner),
                          static_cast<int>(b_inner)));
        }
      }
    }
  }
}

TEST_P(CudaProducts, AllCutsOfGroupsGiveTheSameBits) {
  const Tensor offsets = upload_offsets({3, 3, 20, 150, 150, 151});
  constexpr int kParts = 5;
  for (const auto& [n, k] : {std::array{72, 136}, {37, 75}}) {
    constexpr int kRows = 155;
    const Tensor x = upload(random({kRows, k}, "x", compute()), {kRows, k}, compute());
    const Tensor dy = upload(random({kRows, n}, "dy", compute()), {kRows, n}, compute());
    const Tensor w = upload(random({kParts, n, k}, "w", compute()), {kParts, n, k}, compute());
    Product forward = product_of(x, Inner::kDepth, w, Inner::kDepth, kRows, n, k);
    Product dx = product_of(dy, Inner::kDepth, w, Inner::kEdge, kRows, k, n);
    Product dw = product_of(dy, Inner::kEdge, x, Inner::kEdge, n, k, kRows);
    for (Product* p : {&forward, &dx, &dw}) {
      p->groups = p == &dw ? Groups::kDepth : Groups::kRows;
      p->offsets = cuda::device<std::int32_t>(offsets);
      p->count = kParts;
      p->part = std::int64_t{n} * k;
    }
    dw.add = true;
    const auto zeros = [&](const Shape& shape) {
      return [this, shape] {
        const Tensor c = poisoned(shape);
        backend().zero(c);
        return c;
      };
    };
    expect_same_bits(forward, zeros({kRows, n}), "forward");
    expect_same_bits(dx, zeros({kRows, k}), "dx");
    expect_same_bits(dw, zeros({kParts, n, k}), "dw");
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, CudaProducts,
                         ::testing::Combine(::testing::Values(Engine::kCuda),
                                            ::testing::Values(DType::kF32, DType::kBf16)),
                         case_name);

}  // namespace
}  // namespace moesaic::testing
