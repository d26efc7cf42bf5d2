#include "cuda_on_host/warp_units.h"

#include <array>
#include <bit>
#include <cstring>

#include "cuda_on_host/block.h"
#include "cuda_on_host/race.h"

namespace moesaic::cuda_on_host {
namespace {

constexpr unsigned kAll = 0xffffffffU;
constexpr std::size_t kRowBytes = 16;  // of a matrix, and of a copy

template <class Sum>
struct Product {
  Sum* d;
  const std::uint32_t* a;
  const std::uint32_t* b;
};

float low(std::uint32_t word) { return std::bit_cast<float>(word << 16U); }
float high(std::uint32_t word) { return std::bit_cast<float>(word & 0xffff0000U); }

void add_products(void* const (&lanes)[32], Where /*where*/) {
  float a[16][16];
  float b[8][16];  // by column
  for (int lane = 0; lane < 32; ++lane) {
    const auto& part = *static_cast<const Product<float>*>(lanes[lane]);
    const int g = lane / 4;
    const int t = lane % 4;
    for (int word = 0; word < 4; ++word) {
      float* const to = &a[g + word % 2 * 8][2 * t + word / 2 * 8];
      to[0] = low(part.a[word]);
      to[1] = high(part.a[word]);
    }
    for (int word = 0; word < 2; ++word) {
      float* const to = &b[g][2 * t + word * 8];
      to[0] = low(part.b[word]);
      to[1] = high(part.b[word]);
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    float* const d = static_cast<const Product<float>*>(lanes[lane])->d;
    for (int i = 0; i < 4; ++i) {
      const float* const row = a[lane / 4 + i / 2 * 8];
      const float* const column = b[lane % 4 * 2 + i % 2];
      float sum = d[i];
      for (int k = 0; k < 16; ++k) {
        sum += row[k] * column[k];
      }
      d[i] = sum;
    }
  }
}

template <class Left>
std::int32_t dot(std::uint32_t a, std::uint32_t b) {
  std::int32_t sum = 0;
  for (unsigned byte = 0; byte < 4; ++byte) {
    sum += static_cast<std::int32_t>(static_cast<Left>(a >> (8 * byte))) *
           static_cast<std::int32_t>(static_cast<std::int8_t>(b >> (8 * byte)));
  }
  return sum;
}

template <class Left>
void add_products_of_bytes(void* const (&lanes)[32], Where /*where*/) {
  const auto part = [&](int lane) -> const Product<std::int32_t>& {
    return *static_cast<const Product<std::int32_t>*>(lanes[lane]);
  };
  // Words of four along k: a[row][word], b[column][word].
  std::uint32_t a[16][8];
  std::uint32_t b[8][8];
  for (int lane = 0; lane < 32; ++lane) {
    const int g = lane / 4;
    const int t = lane % 4;
    for (int word = 0; word < 4; ++word) {
      a[g + word % 2 * 8][t + word / 2 * 4] = part(lane).a[word];
    }
    for (int word = 0; word < 2; ++word) {
      b[g][t + word * 4] = part(lane).b[word];
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) {
      std::int32_t sum = part(lane).d[i];
      for (int word = 0; word < 8; ++word) {
        sum += dot<Left>(a[lane / 4 + i / 2 * 8][word], b[lane % 4 * 2 + i % 2][word]);
      }
      part(lane).d[i] = sum;
    }
  }
}

struct Rows {
  std::uint32_t* r;
  const void* row;
  int matrices;
  bool transposed;
};

void load_matrices(void* const (&lanes)[32], Where /*where*/) {
  const auto part = [&](int lane) -> const Rows& { return *static_cast<const Rows*>(lanes[lane]); };
  for (int matrix = 0; matrix < part(0).matrices; ++matrix) {
    std::array<std::array<std::uint16_t, 8>, 8> values;
    for (int row = 0; row < 8; ++row) {
      std::memcpy(&values[static_cast<std::size_t>(row)], part(matrix * 8 + row).row, kRowBytes);
    }
    for (int lane = 0; lane < 32; ++lane) {
      const auto g = static_cast<std::size_t>(lane / 4);
      const auto t = static_cast<std::size_t>(lane % 4 * 2);
      const bool turned = part(lane).transposed;
      const std::uint32_t first = turned ? values[t][g] : values[g][t];
      const std::uint32_t second = turned ? values[t + 1][g] : values[g][t + 1];
      part(lane).r[matrix] = second << 16U | first;
    }
  }
}

void land(const Copy& copy) {
  if (copy.from == nullptr) {
    std::memset(copy.to, 0, kRowBytes);
  } else {
    std::memcpy(copy.to, copy.from, kRowBytes);
  }
  race::write(copy.to, kRowBytes);
}

}  // namespace

void mma_bf16(float* d, const std::uint32_t* a, const std::uint32_t* b, Where where) {
  Product<float> mine{d, a, b};
  together(kAll, "mma_bf16", &mine, add_products, where);
}

void mma_u8s8(std::int32_t* d, const std::uint32_t* a, const std::uint32_t* b, Where where) {
  Product<std::int32_t> mine{d, a, b};
  together(kAll, "mma_u8s8", &mine, add_products_of_bytes<std::uint8_t>, where);
}

void mma_s8s8(std::int32_t* d, const std::uint32_t* a, const std::uint32_t* b, Where where) {
  Product<std::int32_t> mine{d, a, b};
  together(kAll, "mma_s8s8", &mine, add_products_of_bytes<std::int8_t>, where);
}

void ldmatrix(std::uint32_t* r, int matrices, bool transposed, const void* row, Where where) {
  if (this_thread->lane < matrices * 8) {
    check_shared(row, kRowBytes, kRowBytes, where);
    race::read(row, kRowBytes);
  }
  Rows mine{r, row, matrices, transposed};
  together(kAll, "ldmatrix", &mine, load_matrices, where);
}

void begin_copy(void* to, const void* from, Where where) {
  check_shared(to, kRowBytes, kRowBytes, where);
  if (reinterpret_cast<std::uintptr_t>(from) % kRowBytes != 0) {
    fail("cp.async from an address that is not on a border of 16 bytes", where);
  }
  race::write(to, kRowBytes);
  std::memset(to, 0xff, kRowBytes);
  this_thread->copies.push_back({to, from});
}

void end_group() { this_thread->group_ends.push_back(this_thread->copies.size()); }

void wait_for_groups(int open) {
  auto& ends = this_thread->group_ends;
  auto& copies = this_thread->copies;
  const auto kept = std::min(ends.size(), static_cast<std::size_t>(open));
  if (kept == ends.size()) {
    return;
  }
  const std::size_t landed = ends[ends.size() - kept - 1];
  for (std::size_t i = 0; i < landed; ++i) {
    land(copies[i]);
  }
  copies.erase(copies.begin(), copies.begin() + static_cast<std::ptrdiff_t>(landed));
  ends.erase(ends.begin(), ends.end() - static_cast<std::ptrdiff_t>(kept));
  for (std::size_t& end : ends) {
    end -= landed;
  }
}

}  // namespace moesaic::cuda_on_host
