#pragma once

#include "reference/types.h"

namespace moesaic::reference {

enum class Overflow { kDrop, kNext, kSpare };

/// Which row of the experts' input each choice becomes. Rows are grouped by expert, and in the
/// order of tokens within an expert.
struct Dispatch {
  Indices chosen;    // (E): choices before capacity
  Indices dropped;   // (E)
  Indices rerouted;  // (E): where they were chosen
  Indices target;    // (T, K): who computes a choice, -1 if none
  Indices offsets;   // (E + 1): rows of expert e are offsets[e] .. offsets[e + 1]
  Indices token;     // (R): whose copy a row is
  Indices position;  // (T, K): the row of a choice, -1 if dropped
};
/// What moves choices that find no slot: selection (T, E), -inf: not there; a spare takes no other.
struct Moves {
  Overflow rule = Overflow::kDrop;
  Vector selection;
  Indices spares;
};
/// choice, weight (T, K); -1: none. An expert keeps the `capacity` choices of the highest weight,
/// ties to the lower token; 0: all. The others move, those of the highest weight first.
Dispatch dispatch(IndexView choice, View weight, std::int64_t top_k, std::int64_t experts,
                  std::int64_t capacity, const Moves& moves = {});

/// y[r] = x[index[r]], rows of `dim`.
Vector gather_rows(View x, IndexView index, std::int64_t dim);
/// y (T, dim) = sum over k of weight[t,k] rows[position[t,k]]; -1 counts as zero, and an empty
/// weight as 1.
Vector combine_rows(View rows, IndexView position, View weight, std::int64_t top_k,
                    std::int64_t dim);

struct CombineGradient {
  Vector drows;    // of rows' shape
  Vector dweight;  // (T, K); 0 where the position is -1
};
CombineGradient combine_rows_backward(View dy, View rows, IndexView position, View weight,
                                      std::int64_t top_k, std::int64_t dim);

}  // namespace moesaic::reference
