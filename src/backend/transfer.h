#pragma once

#include <cstdint>
#include <vector>

#include "backend/backend.h"

namespace moesaic {

/// A host vector as a tensor of the backend.
Tensor to_device(Backend& backend, const std::vector<std::int32_t>& values, const Shape& shape);
Tensor to_device(Backend& backend, const std::vector<float>& values, const Shape& shape);
std::vector<std::int32_t> to_host_i32(Backend& backend, const Tensor& tensor);
std::vector<float> to_host_f32(Backend& backend, const Tensor& tensor);

}  // namespace moesaic
