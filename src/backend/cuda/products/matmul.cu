#include <limits>

#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/products/product.h"

namespace moesaic::cuda {
namespace {

int small(std::int64_t extent) {
  require(extent <= std::numeric_limits<int>::max(), "a product of too many rows or columns");
  return static_cast<int>(extent);
}

bool aligned(const void* data, std::size_t bytes) {
  return reinterpret_cast<std::uintptr_t>(data) % bytes == 0;
}

void require_dtypes(const Tensor& a, const Tensor& b, const Tensor& c) {
  require(a.dtype() == b.dtype() && (c.dtype() == DType::kF32 || c.dtype() == a.dtype()),
          "matmul of mixed dtypes");
}

// Lines of a, b and c are the last dims of these tensors.
Product product_of(const Tensor& a, const Tensor& b, const Tensor& c, Write write) {
  require_dtypes(a, b, c);
  require(write == Write::kOverwrite || c.dtype() == DType::kF32, "matmul of mixed dtypes");
  const auto last = [](const Tensor& x) { return x.dim(x.shape().rank() - 1); };
  const auto chunk = static_cast<std::int64_t>(16 / size_of(a.dtype()));
  Product p;
  p.a = a.data();
  p.b = b.data();
  p.c = c.data();
  p.a_stride = last(a);
  p.b_stride = last(b);
  p.c_stride = last(c);
  p.wide = aligned(p.a, 16) && aligned(p.b, 16) && last(a) % chunk == 0 && last(b) % chunk == 0;
  p.pairs = aligned(p.c, 2 * size_of(c.dtype())) && last(c) % 2 == 0;
  p.add = write == Write::kAdd;
  p.narrow = c.dtype() == DType::kBf16;
  return p;
}

// `parts`: the tensor with a part for each group.
void set_groups(Product& p, Groups groups, const Tensor& offsets, const Tensor& parts) {
  p.part = parts.dim(1) * parts.dim(2);
  if (!offsets.defined()) {
    require(parts.dim(0) == 1, "a grouped product without offsets");
    return;
  }
  require(offsets.numel() == parts.dim(0) + 1, "a grouped product with other offsets");
  p.groups = groups;
  p.count = small(parts.dim(0));
  p.offsets = device<std::int32_t>(offsets);
}

void run(const CudaBackend& backend, const Product& p, DType dtype) {
  if (dtype == DType::kF32) {
    multiply_fp32(backend.stream(), p, cut_of_fp32(p, backend.sm_count()));
  } else {
    multiply_bf16(backend.stream(), p, cut_of_bf16(p, backend.sm_count()));
  }
}

void require_shapes(bool fit, const Tensor& a, const Tensor& b, const Tensor& c) {
  if (!fit) {
    throw Error(Exit::kInternal, "matmul of " + a.shape().text() + " and " + b.shape().text() +
                                     " into " + c.shape().text());
  }
}

}  // namespace

void CudaBackend::matmul(const Tensor& a, Transpose ta, const Tensor& b, Transpose tb,
                         const Tensor& c, Write write) {
  const bool a_flat = ta == Transpose::kNo;
  const bool b_flat = tb == Transpose::kNo;
  Product p = product_of(a, b, c, write);
  p.a_inner = a_flat ? Inner::kDepth : Inner::kEdge;
  p.b_inner = b_flat ? Inner::kEdge : Inner::kDepth;
  p.m = small(a.dim(a_flat ? 0 : 1));
  p.n = small(b.dim(b_flat ? 1 : 0));
  p.k = small(a.dim(a_flat ? 1 : 0));
  require_shapes(b.dim(b_flat ? 0 : 1) == p.k && c.dim(0) == p.m && c.dim(1) == p.n, a, b, c);
  run(*this, p, a.dtype());
}

void CudaBackend::grouped_matmul(const Tensor& x, const Tensor& offsets, const Tensor& w,
                                 const Tensor& y) {
  Product p = product_of(x, w, y, Write::kOverwrite);
  p.m = small(x.dim(0));
  p.n = small(w.dim(1));
  p.k = small(w.dim(2));
  require_shapes(x.dim(1) == p.k && y.dim(0) == p.m && y.dim(1) == p.n, x, w, y);
  set_groups(p, Groups::kRows, offsets, w);
  run(*this, p, x.dtype());
}

void CudaBackend::grouped_matmul_dx(const Tensor& dy, const Tensor& offsets, const Tensor& w,
                                    const Tensor& dx) {
  Product p = product_of(dy, w, dx, Write::kOverwrite);
  p.b_inner = Inner::kEdge;
  p.m = small(dy.dim(0));
  p.n = small(w.dim(2));
  p.k = small(w.dim(1));
  require_shapes(dy.dim(1) == p.k && dx.dim(0) == p.m && dx.dim(1) == p.n, dy, w, dx);
  set_groups(p, Groups::kRows, offsets, w);
  run(*this, p, dy.dtype());
}

void CudaBackend::grouped_matmul_dw(const Tensor& dy, const Tensor& x, const Tensor& offsets,
                                    const Tensor& dw) {
  Product p = product_of(dy, x, dw, Write::kAdd);
  p.a_inner = Inner::kEdge;
  p.b_inner = Inner::kEdge;
  p.m = small(dw.dim(1));
  p.n = small(dw.dim(2));
  p.k = small(dy.dim(0));
  require_shapes(dy.dim(1) == p.m && x.dim(1) == p.n && x.dim(0) == p.k, dy, x, dw);
  set_groups(p, Groups::kDepth, offsets, dw);
  run(*this, p, dy.dtype());
}

}  // namespace moesaic::cuda
