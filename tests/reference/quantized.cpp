#include "reference/quantized.h"

#include <algorithm>
#include <cmath>

namespace moesaic::reference {

Vector rounded_rows(View x, std::int64_t columns, std::int64_t block) {
  Vector y(x.size(), 0.0);
  for (std::int64_t row = 0; columns > 0 && row < std::ssize(x) / columns; ++row) {
    for (std::int64_t begin = 0; begin < columns; begin += block) {
      const std::int64_t end = std::min(begin + block, columns);
      float most = 0.0F;
      for (std::int64_t k = begin; k < end; ++k) {
        most = std::max(most, std::abs(static_cast<float>(x[row * columns + k])));
      }
      for (std::int64_t k = begin; k < end && most > 0.0F; ++k) {
        const std::int64_t i = row * columns + k;
        const float level = static_cast<float>(x[i]) * (127.0F / most);  // rounded to a float first
        y[i] = std::nearbyint(level) * (most * (1.0F / 127.0F));
      }
    }
  }
  return y;
}

}  // namespace moesaic::reference
