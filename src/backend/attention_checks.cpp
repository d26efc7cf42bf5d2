#include "backend/attention_checks.h"

#include <fmt/format.h>

namespace moesaic {

void require_heads(const HeadRows& q, const KeyRows& keys, const Tensor& first) {
  const RowGroups& k = keys.k.heads;
  const RowGroups& v = keys.v.heads;
  const bool fit = k.groups > 0 && q.heads.groups % k.groups == 0 && v.groups == k.groups &&
                   q.heads.width == k.width && k.width > 0 && v.width > 0;
  if (!fit || first.dim(0) != q.rows.dim(0) || keys.v.rows.dim(0) != keys.k.rows.dim(0)) {
    throw Error(Exit::kInternal,
                fmt::format("attention of {} ({} heads of {}) to {} ({} of {}) and {} ({} of {})",
                            q.rows.shape().text(), q.heads.groups, q.heads.width,
                            keys.k.rows.shape().text(), k.groups, k.width,
                            keys.v.rows.shape().text(), v.groups, v.width));
  }
}

void require_runs(const PagedRuns& runs) {
  if (runs.offsets.dim(0) != runs.position.dim(0) + 1 ||
      runs.page_offsets.dim(0) != runs.offsets.dim(0)) {
    throw Error(Exit::kInternal,
                fmt::format("{} runs with {} offsets and {} of pages", runs.position.dim(0),
                            runs.offsets.dim(0), runs.page_offsets.dim(0)));
  }
}

void require_pages(const HeadRows& q, const KeyPages& keys) {
  require_runs(keys.runs);
  if (q.heads.groups % keys.keys.dim(1) != 0 || keys.keys.dim(3) != q.heads.width) {
    throw Error(Exit::kInternal,
                fmt::format("attention of {} heads of {} to pages {}", q.heads.groups,
                            q.heads.width, keys.keys.shape().text()));
  }
}

void require_groups(const Tensor& rows, const RowGroups& groups, const Tensor& pages) {
  if (groups.groups != pages.dim(1) || groups.width != pages.dim(3) ||
      rows.dtype() != pages.dtype()) {
    throw Error(Exit::kInternal, fmt::format("{} groups of {} for pages {}", groups.groups,
                                             groups.width, pages.shape().text()));
  }
}

}  // namespace moesaic
