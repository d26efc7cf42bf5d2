#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace moesaic::log {

enum class Level { kDebug, kInfo, kWarn, kError };

/// To be called first: nobody who stops reading stdout or stderr ends this process, and one of them
/// that is closed is not the next file that is opened. Lines that cannot be written are dropped.
void guard_streams();

/// Lines are `2026-11-03T10:00:00Z INFO message`. Rank 0 writes debug and info to stdout, warnings
/// and errors to stderr; other ranks write only errors, prefixed `[rank r host]`.
void set_up(int rank, const std::string& host, Level level);
/// Rank 0: also append every line there. Throws kCannotCreate.
void add_file(const std::filesystem::path& file);

void debug(std::string_view message);
void info(std::string_view message);
void warn(std::string_view message);
void error(std::string_view message);

/// Rank 0: text without time or level, for tables and results.
void print(std::string_view text);
/// Rank 0: one line that the next one overwrites on a terminal; `plain` goes to the log instead
/// where stdout is not a terminal (or `terminal` is off).
void progress(std::string_view line, std::string_view plain);
/// Whether progress lines are overwritten; by default whether stdout is a terminal.
void set_terminal(bool terminal);
bool is_terminal();

}  // namespace moesaic::log
