// What the sources ask of C++20; made by hand, before CMake is asked for more.
#include <bit>
#include <concepts>
#include <numbers>
#include <ranges>
#include <span>
#include <vector>

enum class Kind { kOne, kTwo };

template <std::integral T>
T sum(std::span<const T> values) {
  T total{};
  for (const T value : values | std::views::drop(1)) {
    total += value;
  }
  return total;
}

struct Layout {
  int first = 0, second = 0;
  bool operator==(const Layout&) const = default;
};

int main() {
  using enum Kind;
  const std::vector<int> values{1, 2, 3};
  const bool good = kOne != kTwo && std::bit_cast<unsigned>(sum<int>(values)) == 5U &&
                    Layout{.first = 1} != Layout{.second = 1} && std::numbers::pi > 3.0;
  return good ? 0 : 1;
}
