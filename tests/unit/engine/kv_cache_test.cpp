// Protects the pages of the cache: that no two sequences write into one, that equal beginnings are
// shared and nothing else, and what goes first where memory is short.
#include "engine/kv_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "backend/backend.h"
#include "tensor/rng.h"

namespace moesaic::engine {
namespace {

using Tokens = std::vector<std::int32_t>;

Tokens tokens(std::int64_t count, std::int32_t first = 0) {
  Tokens list;
  for (std::int64_t i = 0; i < count; ++i) {
    list.push_back(first + static_cast<std::int32_t>(i % 50));
  }
  return list;
}

TEST(KvCache, TakesWholePagesOrNothing) {
  KvCache cache(3);
  const auto first = cache.take({tokens(10)}, kPageTokens + 1);
  ASSERT_TRUE(first);
  EXPECT_EQ(first->pages.size(), 2U);
  EXPECT_EQ(first->known, 0);
  EXPECT_FALSE(cache.take({tokens(10)}, kPageTokens + 1));
  const auto second = cache.take({tokens(10)}, kPageTokens);
  ASSERT_TRUE(second);
  EXPECT_EQ(cache.free(), 0);
  cache.release(*first);
  EXPECT_EQ(cache.free(), 2);
  EXPECT_TRUE(cache.take({tokens(10)}, 2 * kPageTokens));
}

// Full pages of an equal beginning are shared once they are computed, but never the page of the
// prompt's last token, which is computed to get the first new one.
TEST(KvCache, SharesEqualBeginnings) {
  KvCache cache(20);
  const Tokens prompt = tokens(3 * kPageTokens);
  const auto first = cache.take({prompt}, 3 * kPageTokens + 10);
  EXPECT_EQ(cache.take({prompt}, 3 * kPageTokens)->known, 0) << "not computed yet";
  cache.publish({prompt}, *first);
  const auto same = cache.take({prompt}, 3 * kPageTokens + 10);
  EXPECT_EQ(same->known, 2 * kPageTokens);
  EXPECT_EQ(same->pages[0], first->pages[0]);
  EXPECT_EQ(same->pages[1], first->pages[1]);
  EXPECT_NE(same->pages[2], first->pages[2]);
  Tokens longer = prompt;
  longer.push_back(7);
  EXPECT_EQ(cache.take({longer}, 4 * kPageTokens)->known, 3 * kPageTokens);
  Tokens other = prompt;
  other[static_cast<std::size_t>(kPageTokens)] += 1;
  EXPECT_EQ(cache.take({other}, 3 * kPageTokens)->known, kPageTokens);
  EXPECT_EQ(cache.take({tokens(3 * kPageTokens, 1)}, 3 * kPageTokens)->known, 0);
  EXPECT_EQ(cache.take({prompt, 1}, 2 * kPageTokens)->known, 0) << "of another task";
}

// A page is the same only after the same pages.
TEST(KvCache, SharesBeginningsAndNotMiddles) {
  KvCache cache(10);
  Tokens a = tokens(kPageTokens, 0), b = tokens(kPageTokens, 100);
  const Tokens middle = tokens(kPageTokens + 1, 200);
  a.insert(a.end(), middle.begin(), middle.end());
  b.insert(b.end(), middle.begin(), middle.end());
  cache.publish({a}, *cache.take({a}, std::ssize(a)));
  EXPECT_EQ(cache.take({b}, std::ssize(b))->known, 0);
}

TEST(KvCache, KeepsWhatWasUsedLast) {
  KvCache cache(4);
  const Tokens a = tokens(kPageTokens + 1, 0), b = tokens(kPageTokens + 1, 100);
  for (const Tokens& prompt : {a, b}) {
    const auto lease = cache.take({prompt}, 2 * kPageTokens);
    cache.publish({prompt}, *lease);
    cache.release(*lease);
  }
  cache.release(*cache.take({a}, 2 * kPageTokens));  // used again, after b
  const auto other = cache.take({tokens(5, 300)}, 3 * kPageTokens);
  ASSERT_TRUE(other);
  cache.release(*other);
  EXPECT_EQ(cache.take({b}, kPageTokens + 1)->known, 0);
  EXPECT_EQ(cache.take({a}, kPageTokens + 1)->known, kPageTokens);
}

// The last pages of a prompt are given away before those that they continue.
TEST(KvCache, GivesEndsAwayFirst) {
  KvCache cache(3);
  const Tokens prompt = tokens(2 * kPageTokens + 1);
  const auto lease = cache.take({prompt}, 2 * kPageTokens + 1);
  cache.publish({prompt}, *lease);
  cache.release(*lease);
  cache.release(*cache.take({tokens(5, 300)}, 2 * kPageTokens));
  EXPECT_EQ(cache.take({prompt}, 2 * kPageTokens + 1)->known, kPageTokens);
}

// Pages of a running sequence stay its own through many of others, and none is lost.
TEST(KvCache, ManySequences) {
  constexpr std::int64_t kPages = 12;
  KvCache cache(kPages);
  const Rng rng(3, 0);
  std::vector<std::pair<Tokens, KvCache::Lease>> running;
  for (std::uint64_t i = 0; i < 3000; ++i) {
    const std::uint64_t bits = rng.bits(i);
    if (bits % 3 != 0 || running.empty()) {
      Tokens prompt = tokens(1 + static_cast<std::int64_t>(bits / 8 % 250),
                             static_cast<std::int32_t>(bits / 4096 % 3));
      const auto lease =
          cache.take({prompt}, std::ssize(prompt) + static_cast<std::int64_t>(bits / 64 % 100));
      if (!lease) {
        continue;
      }
      for (auto page = lease->pages.begin() + lease->known / kPageTokens;
           page != lease->pages.end(); ++page) {
        for (const auto& [other, theirs] : running) {
          ASSERT_EQ(std::count(theirs.pages.begin(), theirs.pages.end(), *page), 0);
        }
      }
      cache.publish({prompt}, *lease);
      running.emplace_back(std::move(prompt), *lease);
    } else {
      cache.release(running[bits / 16 % running.size()].second);
      running.erase(running.begin() + static_cast<std::ptrdiff_t>(bits / 16 % running.size()));
    }
    std::set<std::int32_t> used;
    for (const auto& [prompt, lease] : running) {
      used.insert(lease.pages.begin(), lease.pages.end());
    }
    ASSERT_EQ(cache.free(), kPages - std::ssize(used));
  }
}

}  // namespace
}  // namespace moesaic::engine
