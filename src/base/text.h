#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace moesaic {

std::string short_count(double value);                        // 17.3 M
std::string short_bytes(double bytes);                        // 1.2 GiB
std::string short_duration(double seconds);                   // 1:02:03
std::string counted(std::int64_t n, std::string_view thing);  // 1 rank, 4 ranks
std::vector<std::string> split(std::string_view text, char separator);
std::string_view trim(std::string_view text);  // without white space at both ends
std::string join(const std::vector<std::string>& parts, std::string_view separator);
std::string join(std::span<const std::int64_t> numbers, std::string_view separator);
std::string join(std::span<const std::int32_t> numbers, std::string_view separator);

/// Letters to change, to add or to leave out, from one text to the other (Levenshtein 1966).
std::size_t edit_distance(std::string_view a, std::string_view b);
/// The candidate nearest to `word` by edit distance; empty if none is near enough to suggest.
std::string nearest(std::string_view word, const std::vector<std::string>& candidates);

/// Rows with the columns aligned, two spaces apart.
std::string table(const std::vector<std::vector<std::string>>& rows);

}  // namespace moesaic
