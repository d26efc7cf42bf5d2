#pragma once

#include "backend/attention.h"

// What attention demands of its arguments. nvcc does not compile the formatting of the messages.
namespace moesaic {

/// Throws unless queries, keys and values fit.
void require_heads(const HeadRows& q, const KeyRows& keys, const Tensor& first);

/// Throws unless there is one of everything for each run.
void require_runs(const PagedRuns& runs);
void require_pages(const HeadRows& q, const KeyPages& keys);
void require_groups(const Tensor& rows, const RowGroups& groups, const Tensor& pages);

}  // namespace moesaic
