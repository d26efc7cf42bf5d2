#include "text/kind.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "base/error.h"
#include "base/json.h"
#include "files/lenient_json.h"
#include "text/stream.h"

namespace moesaic::text {
namespace {

namespace fs = std::filesystem;
using namespace std::string_view_literals;

constexpr std::size_t kLookBytes = 8192;
constexpr std::size_t kLookLine = std::size_t{1} << 20U;  // of a first line

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

/// The extension of what is packed.
std::string extension_of(const fs::path& file) {
  const std::string last = lower(file.extension().string());
  return last == ".gz" || last == ".zst" ? lower(file.stem().extension().string()) : last;
}

/// At least so many unpacked bytes from the start, unless the file is shorter.
std::string start_of(const fs::path& file, std::size_t bytes) {
  TextStream stream(file);
  std::string start(bytes, '\0');
  std::size_t count = 0;
  while (count < bytes) {
    const std::size_t more = stream.read(std::span(start).subspan(count));
    if (more == 0) {
      break;
    }
    count += more;
  }
  start.resize(count);
  return start;
}

struct Magic {
  std::size_t at;
  std::string_view bytes, what;
};

constexpr std::string_view kImport = "make a corpus of it with python3 analysis/import_corpus.py";

/// Files that people name instead of text; empty: another binary file, or none.
std::string_view format_of(std::string_view start) {
  static constexpr Magic kFormats[] = {{0, "PAR1"sv, "a Parquet file"},
                                       {0, "ARROW1\0\0"sv, "an Arrow file"},
                                       {0, "\xFF\xFF\xFF\xFF"sv, "an Arrow stream"},
                                       {0, "FEA1"sv, "a Feather file"},
                                       {0, "\x89HDF\r\n\x1a\n"sv, "an HDF5 file"},
                                       {0, "PK\x03\x04"sv, "a zip archive"},
                                       {0, "PK\x05\x06"sv, "an empty zip archive"},
                                       {4, "1AY&SY"sv, "packed by bzip2"},
                                       {0,
                                        "\xFD"
                                        "7zXZ\0"sv,
                                        "packed by xz"},
                                       {0, "7z\xBC\xAF\x27\x1C"sv, "a 7z archive"},
                                       {0, "\x04\x22\x4D\x18"sv, "packed by lz4"},
                                       {257, "ustar"sv, "a tar archive"},
                                       {0, "%PDF-"sv, "a PDF document"},
                                       {0, "SQLite format 3\0"sv, "an SQLite database"},
                                       {0, "\x93NUMPY"sv, "a numpy array"},
                                       {0, "\xFF\xFE"sv, "text in UTF-16"},
                                       {0, "\xFE\xFF"sv, "text in UTF-16"}};
  // Marks of letters alone may begin a text; what they mark has control bytes as well.
  const bool binary = std::any_of(start.begin(), start.end(), [](char c) {
    return c >= '\0' && c < ' ' && std::string_view("\t\n\v\f\r").find(c) == std::string_view::npos;
  });
  for (const Magic& magic : kFormats) {
    const bool letters = std::all_of(magic.bytes.begin(), magic.bytes.end(),
                                     [](char c) { return c >= ' ' && c <= '~'; });
    if (start.size() > magic.at && start.substr(magic.at).starts_with(magic.bytes) &&
        (binary || !letters)) {
      return magic.what;
    }
  }
  return "";
}

std::string remedy_of(std::string_view format, const fs::path& file) {
  const std::string name = fs::absolute(file).string();
  if (format.find("Parquet") != format.npos || format.find("Arrow") != format.npos) {
    return fmt::format("{} {} -o DIR", kImport, name);
  }
  if (format.find("UTF-16") != format.npos) {
    return fmt::format("make it UTF-8 with iconv -f UTF-16 -t UTF-8 {}", name);
  }
  if (format.find("packed") != format.npos || format.find("archive") != format.npos) {
    return "unpack it first (text may be packed by gzip or zstd)";
  }
  return "tokenize reads text and JSONL, plain or packed by gzip or zstd";
}

std::string_view without_space(std::string_view text) {
  if (text.starts_with("\xEF\xBB\xBF")) {
    text.remove_prefix(3);
  }
  const std::size_t begin = text.find_first_not_of(" \t\r\n");
  return begin == text.npos ? "" : text.substr(begin);
}

std::string_view first_line(std::string_view text) { return text.substr(0, text.find('\n')); }

bool is_object(std::string_view line) {
  try {
    return files::parse_lenient_json(std::string(line)).is_object();
  } catch (const Error&) {
    return false;
  }
}

/// Why a .json file is no JSONL; empty if it is.
std::string other_json(const fs::path& file) {
  const std::string start = start_of(file, kLookLine);
  const std::string_view text = without_space(start);
  const std::string name = fs::absolute(file).string(), packing = packing_of(file);
  const std::string unpack =
      packing.empty() ? "" : fmt::format("{} {} | ", packing == "gz" ? "zcat" : "zstdcat", name);
  const std::string operand = packing.empty() ? name + " " : "";
  if (text.starts_with('[')) {
    return fmt::format(
        "is one JSON list: make a line of each element with {}jq -c '.[]' {}> FILE.jsonl", unpack,
        operand);
  }
  if (!text.empty() && !text.starts_with('{')) {
    return "is named .json, but does not begin with a JSON object: name it .txt if it is text";
  }
  const std::string_view line = first_line(text);
  const bool whole = line.size() < text.size() || start.size() < kLookLine;
  const std::string_view rest = without_space(text.substr(line.size()));
  if (text.empty() || !whole || rest.starts_with('{') || is_object(line)) {
    return "";
  }
  return fmt::format(
      "is one JSON object over many lines: make one line of each with {}jq -c . {}> FILE.jsonl",
      unpack, operand);
}

}  // namespace

bool is_named_lines(const fs::path& file) {
  const std::string extension = extension_of(file);
  return extension == ".jsonl" || extension == ".ndjson" || extension == ".jsonlines";
}

TextKind kind_of(const fs::path& file) {
  TextKind kind;
  kind.packed = !packing_of(file).empty();
  const std::string start = start_of(file, kLookBytes);
  const std::string_view format = format_of(start);
  const bool nul =
      start.find('\0') != start.npos && !is_named_lines(file);  // the reader tells of those
  if (!format.empty() || nul) {
    kind.is = TextKind::Is::kBinary;
    kind.reason = fmt::format(
        "is {}, not text{}: {}", format.empty() ? "binary data (it has NUL bytes)" : format,
        format.ends_with("UTF-16") ? " in UTF-8" : "", remedy_of(format, file));
  } else if (is_named_lines(file)) {
    kind.is = TextKind::Is::kLines;
  } else if (extension_of(file) == ".json") {
    kind.reason = other_json(file);
    kind.is = kind.reason.empty() ? TextKind::Is::kLines : TextKind::Is::kJson;
    kind.manifest =
        kind.is == TextKind::Is::kJson && start.find("\"moesaic-corpus\"") != start.npos;
    if (kind.manifest) {
      kind.reason = "is the manifest of a corpus: name the text that this was made of";
    }
  }
  return kind;
}

bool has_text_field(const fs::path& file, const TextFields& fields) {
  const std::string start = start_of(file, kLookLine);
  try {
    const auto line = files::parse_lenient_json(std::string(first_line(without_space(start))));
    return line.contains(fields.text) || line.contains("continuation") ||
           line.contains("input_ids") || line.contains("prompt");
  } catch (const Error&) {
    return true;  // a bad line, or a very long one: the reader says so
  }
}

}  // namespace moesaic::text
