#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace moesaic::text {

/// The bytes that a token of a byte-level vocabulary stands for: GPT-2 writes each byte as a
/// visible letter (Radford et al. 2019). Nothing if another letter is in it.
std::optional<std::string> bytes_of_letters(std::string_view token);

/// The byte that a token such as <0x0A> stands for.
std::optional<unsigned char> byte_of_token(std::string_view token);

}  // namespace moesaic::text
