// Protects AdamW.
#include "reference/optimizer.h"

#include <cmath>
#include <span>
#include <vector>

#include "unit/backend/kernel_test.h"

namespace moesaic::testing {
namespace {

class OptimizerKernels : public KernelTest {
 protected:
  void update(const AdamWTensors& tensors) const { backend().adamw(std::span(&tensors, 1)); }
};

constexpr reference::AdamWOptions kOptions{0.01, 0.9, 0.95, 1e-8, 0.1, 0.5};

AdamW step_of(std::int64_t step) {
  const auto correction = [&](double beta) {
    return to_float(1.0 - std::pow(beta, static_cast<double>(step)));
  };
  return {.lr = to_float(kOptions.lr),
          .beta1 = to_float(kOptions.beta1),
          .beta2 = to_float(kOptions.beta2),
          .eps = to_float(kOptions.eps),
          .weight_decay = to_float(kOptions.weight_decay),
          .correction1 = correction(kOptions.beta1),
          .correction2 = correction(kOptions.beta2),
          .grad_scale = to_float(kOptions.grad_scale)};
}

TEST_P(OptimizerKernels, ThreeStepsOfAdamW) {
  for (const std::int64_t count : kRowCounts) {
    reference::AdamWState state{random({count}, "value"), Vector(static_cast<std::size_t>(count)),
                                Vector(static_cast<std::size_t>(count))};
    const Tensor value = upload(state.value, {count});
    const Tensor exp_avg = upload(state.exp_avg, {count});
    const Tensor exp_avg_sq = upload(state.exp_avg_sq, {count});
    for (std::int64_t step = 1; step <= 3; ++step) {
      const Vector grad = random({count}, std::to_string(step));
      const Tensor copy = step == 2 ? Tensor() : poisoned({count}, compute());
      update({step_of(step), upload(grad, {count}), value, exp_avg, exp_avg_sq, copy});
      state = reference::adamw(state, grad, kOptions, step);
      expect_close(download(value), state.value, 2e-5, "value");
      expect_close(download(exp_avg), state.exp_avg, 2e-5, "exp_avg");
      expect_close(download(exp_avg_sq), state.exp_avg_sq, 2e-5, "exp_avg_sq");
      if (copy.defined()) {
        expect_close(download(copy), download(value), compute() == DType::kF32 ? 0.0 : 0.004,
                     "copy");
      }
    }
  }
}

// Moments in bf16: the update is made of the exact ones, which are rounded when they are stored.
TEST_P(OptimizerKernels, MomentsInBf16) {
  for (const std::int64_t count : kRowCounts) {
    reference::AdamWState state{random({count}, "value"), Vector(static_cast<std::size_t>(count)),
                                Vector(static_cast<std::size_t>(count))};
    const Tensor value = upload(state.value, {count});
    const Tensor exp_avg = upload(state.exp_avg, {count}, DType::kBf16);
    const Tensor exp_avg_sq = upload(state.exp_avg_sq, {count}, DType::kBf16);
    for (std::int64_t step = 1; step <= 3; ++step) {
      const Vector grad = random({count}, std::to_string(step));
      update({step_of(step), upload(grad, {count}), value, exp_avg, exp_avg_sq,
              poisoned({count}, compute())});
      state = reference::adamw(state, grad, kOptions, step);
      expect_close(download(value), state.value, 2e-5, "value");
      expect_close(download(exp_avg), state.exp_avg, 0.004, "exp_avg");
      expect_close(download(exp_avg_sq), state.exp_avg_sq, 0.004, "exp_avg_sq");
      state.exp_avg = download(exp_avg);
      state.exp_avg_sq = download(exp_avg_sq);
    }
  }
}

// An element whose gradient has always been 0 must only decay, never become NaN.
TEST_P(OptimizerKernels, NoGradientOnlyDecays) {
  const Tensor value = upload(Vector{2.0, -4.0}, {2});
  const Tensor exp_avg = upload(Vector{0.0, 0.0}, {2});
  const Tensor exp_avg_sq = upload(Vector{0.0, 0.0}, {2});
  update({step_of(1), upload(Vector{0.0, 0.0}, {2}), value, exp_avg, exp_avg_sq, Tensor()});
  expect_close(download(value), {2.0 * 0.999, -4.0 * 0.999}, 1e-6, "value");
}

// All tensors of a step in one call, each with its own rule: the bits of one call for each.
TEST_P(OptimizerKernels, ManyTensorsInOneCall) {
  const auto make = [&] {
    std::vector<AdamWTensors> all;
    for (std::int64_t i = 0; const std::int64_t count : {3, 0, 4099, 1, 65, 17}) {
      const DType moments = i % 2 == 0 ? DType::kF32 : DType::kBf16;
      const Vector squares(static_cast<std::size_t>(count), 0.5);
      all.push_back({.step = step_of(++i),
                     .grad = upload(random({count}, "grad"), {count}),
                     .value = upload(random({count}, "value"), {count}),
                     .exp_avg = upload(random({count}, "exp_avg"), {count}, moments),
                     .exp_avg_sq = upload(squares, {count}, moments),
                     .copy = i % 3 == 0 ? Tensor() : poisoned({count}, compute())});
    }
    return all;
  };
  const std::vector<AdamWTensors> together = make();
  backend().adamw(together);
  const std::vector<AdamWTensors> alone = make();
  for (std::size_t i = 0; i < alone.size(); ++i) {
    update(alone[i]);
    for (const auto member : {&AdamWTensors::value, &AdamWTensors::exp_avg,
                              &AdamWTensors::exp_avg_sq, &AdamWTensors::copy}) {
      if ((alone[i].*member).defined()) {
        EXPECT_EQ(download(together[i].*member), download(alone[i].*member)) << i;
      }
    }
  }
  backend().adamw({});
}

INSTANTIATE_TEST_SUITE_P(Backends, OptimizerKernels, all_cases(), case_name);

}  // namespace
}  // namespace moesaic::testing
