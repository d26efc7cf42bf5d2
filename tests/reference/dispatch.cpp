#include "reference/dispatch.h"

#include <algorithm>

namespace moesaic::reference {
namespace {

// The places (t K + k) that chose an expert and keep a slot of it, in the order of tokens.
Indices kept_places(const Indices& places, View weight, std::int64_t capacity) {
  Indices kept = places;
  if (capacity == 0 || std::ssize(places) <= capacity) {
    return kept;
  }
  std::stable_sort(kept.begin(), kept.end(),
                   [&](std::int64_t a, std::int64_t b) { return weight[a] > weight[b]; });
  kept.resize(capacity);
  std::sort(kept.begin(), kept.end());
  return kept;
}

}  // namespace

Dispatch dispatch(IndexView choice, View weight, std::int64_t top_k, std::int64_t experts,
                  std::int64_t capacity) {
  Dispatch out{{}, {}, {0}, {}, Indices(choice.size(), -1)};
  for (std::int64_t expert = 0; expert < experts; ++expert) {
    Indices places;
    for (std::int64_t place = 0; place < std::ssize(choice); ++place) {
      if (choice[place] == expert) {
        places.push_back(place);
      }
    }
    const Indices kept = kept_places(places, weight, capacity);
    for (const std::int64_t place : kept) {
      out.position[place] = std::ssize(out.token);
      out.token.push_back(place / top_k);
    }
    out.chosen.push_back(std::ssize(places));
    out.dropped.push_back(std::ssize(places) - std::ssize(kept));
    out.offsets.push_back(std::ssize(out.token));
  }
  return out;
}

Vector gather_rows(View x, IndexView index, std::int64_t dim) {
  Vector y;
  for (const std::int64_t row : index) {
    const View source = x.subspan(row * dim, dim);
    y.insert(y.end(), source.begin(), source.end());
  }
  return y;
}

Vector combine_rows(View rows, IndexView position, View weight, std::int64_t top_k,
                    std::int64_t dim) {
  Vector y(position.size() / top_k * dim, 0.0);
  for (std::int64_t place = 0; place < std::ssize(position); ++place) {
    for (std::int64_t i = 0; i < dim && position[place] >= 0; ++i) {
      const double factor = weight.empty() ? 1.0 : weight[place];
      y[place / top_k * dim + i] += factor * rows[position[place] * dim + i];
    }
  }
  return y;
}

CombineGradient combine_rows_backward(View dy, View rows, IndexView position, View weight,
                                      std::int64_t top_k, std::int64_t dim) {
  CombineGradient out{Vector(rows.size(), 0.0), Vector(position.size(), 0.0)};
  for (std::int64_t place = 0; place < std::ssize(position); ++place) {
    for (std::int64_t i = 0; i < dim && position[place] >= 0; ++i) {
      const double grad = dy[place / top_k * dim + i];
      out.drows[position[place] * dim + i] += weight[place] * grad;
      out.dweight[place] += grad * rows[position[place] * dim + i];
    }
  }
  return out;
}

}  // namespace moesaic::reference
