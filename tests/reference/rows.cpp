#include "reference/rows.h"

#include <algorithm>
#include <cmath>

namespace moesaic::reference {
namespace {

bool contains(const Indices& list, std::int64_t value) {
  return std::find(list.begin(), list.end(), value) != list.end();
}

void sort_by_weight(Indices& places, View weight) {
  std::sort(places.begin(), places.end(), [&](std::int64_t a, std::int64_t b) {
    return weight[a] != weight[b] ? weight[a] > weight[b] : a < b;
  });
}

// Where else a token may go, best first: spares alone, or all but spares.
Indices wishes(std::int64_t token, std::int64_t experts, const Moves& moves, bool spares) {
  const View row = View(moves.selection).subspan(token * experts, experts);
  Indices list;
  for (std::int64_t e = 0; e < experts; ++e) {
    if (contains(moves.spares, e) == spares && std::isfinite(row[e])) {
      list.push_back(e);
    }
  }
  std::stable_sort(list.begin(), list.end(),
                   [&](std::int64_t a, std::int64_t b) { return row[a] > row[b]; });
  return list;
}

}  // namespace

Dispatch dispatch(IndexView choice, View weight, std::int64_t top_k, std::int64_t experts,
                  std::int64_t capacity, const Moves& moves) {
  Dispatch out{.chosen = Indices(experts, 0),
               .dropped = Indices(experts, 0),
               .rerouted = Indices(experts, 0),
               .target = Indices(choice.begin(), choice.end()),
               .offsets = {0},
               .token = {},
               .position = Indices(choice.size(), -1)};
  Indices overflow;
  for (std::int64_t place = 0; place < std::ssize(choice); ++place) {
    if (choice[place] >= 0) {
      ++out.chosen[choice[place]];
    }
  }
  for (std::int64_t expert = 0; expert < experts && capacity > 0; ++expert) {
    Indices places;
    for (std::int64_t place = 0; place < std::ssize(choice); ++place) {
      if (choice[place] == expert) {
        places.push_back(place);
      }
    }
    sort_by_weight(places, weight);
    for (std::int64_t i = capacity; i < std::ssize(places); ++i) {
      overflow.push_back(places[i]);
    }
  }
  sort_by_weight(overflow, weight);
  // Nobody computes them for now, but they count as tokens' choices, so their experts are full.
  const auto load = [&](std::int64_t expert) {
    std::int64_t rows = 0;
    for (std::int64_t place = 0; place < std::ssize(choice); ++place) {
      rows += out.target[place] == expert ? 1 : 0;
    }
    return rows;
  };
  for (const std::int64_t place : overflow) {
    const std::int64_t token = place / top_k;
    const Indices own(out.target.begin() + token * top_k, out.target.begin() + (token + 1) * top_k);
    Indices list;
    if (moves.rule == Overflow::kSpare) {
      list = wishes(token, experts, moves, true);
    }
    if (moves.rule != Overflow::kDrop) {
      const Indices others = wishes(token, experts, moves, false);
      list.insert(list.end(), others.begin(), others.end());
    }
    std::int64_t target = -1;
    for (auto e = list.begin(); e != list.end() && target < 0; ++e) {
      target = load(*e) < capacity && !contains(own, *e) ? *e : -1;
    }
    out.target[place] = target;
    ++(target >= 0 ? out.rerouted : out.dropped)[choice[place]];
  }
  for (std::int64_t expert = 0; expert < experts; ++expert) {
    for (std::int64_t place = 0; place < std::ssize(choice); ++place) {
      if (out.target[place] == expert) {
        out.position[place] = std::ssize(out.token);
        out.token.push_back(place / top_k);
      }
    }
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
