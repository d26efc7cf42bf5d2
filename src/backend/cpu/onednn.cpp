#include "backend/cpu/onednn.h"

#include <map>
#include <oneapi/dnnl/dnnl.hpp>
#include <tuple>

namespace moesaic::cpu {
namespace {

using Data = dnnl::memory::data_type;
using Tag = dnnl::memory::format_tag;

struct Problem {
  std::int64_t m, n, k;
  Transpose ta, tb;
  DType out;
  Write write;
  auto key() const { return std::tuple(m, n, k, ta, tb, out, write); }
  bool operator<(const Problem& other) const { return key() < other.key(); }
};

struct Made {
  dnnl::matmul primitive;
  dnnl::memory::desc a, b, c;
};

Data dnnl_type(DType dtype) { return dtype == DType::kF32 ? Data::f32 : Data::bf16; }

Made make(const Problem& p, const dnnl::engine& engine) {
  Made made;
  made.a = {{p.m, p.k}, Data::bf16, p.ta == Transpose::kNo ? Tag::ab : Tag::ba};
  made.b = {{p.k, p.n}, Data::bf16, p.tb == Transpose::kNo ? Tag::ab : Tag::ba};
  made.c = {{p.m, p.n}, dnnl_type(p.out), Tag::ab};
  dnnl::primitive_attr attributes;
  if (p.write == Write::kAdd) {
    dnnl::post_ops sum;
    sum.append_sum(1.0F);
    attributes.set_post_ops(sum);
  }
  const dnnl::matmul::desc description(made.a, made.b, made.c);
  made.primitive = dnnl::matmul({description, attributes, engine});
  return made;
}

}  // namespace

bool matrix_units_are_usable() {
  return dnnl::get_effective_cpu_isa() == dnnl::cpu_isa::avx512_core_amx;
}

struct OneDnn::State {
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
  std::map<Problem, Made> made;
};

OneDnn::OneDnn() : state_(std::make_unique<State>()) {}
OneDnn::~OneDnn() = default;

void OneDnn::run(const Tensor& a, Transpose ta, const Tensor& b, Transpose tb, const Tensor& c,
                 Write write) {
  const Problem p{.m = c.dim(0),
                  .n = c.dim(1),
                  .k = a.dim(ta == Transpose::kNo ? 1 : 0),
                  .ta = ta,
                  .tb = tb,
                  .out = c.dtype(),
                  .write = write};
  auto found = state_->made.find(p);
  if (found == state_->made.end()) {
    found = state_->made.emplace(p, make(p, state_->engine)).first;
  }
  const Made& made = found->second;
  made.primitive.execute(state_->stream, {{DNNL_ARG_SRC, {made.a, state_->engine, a.data()}},
                                          {DNNL_ARG_WEIGHTS, {made.b, state_->engine, b.data()}},
                                          {DNNL_ARG_DST, {made.c, state_->engine, c.data()}}});
  state_->stream.wait();
}

}  // namespace moesaic::cpu
