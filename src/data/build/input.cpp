#include "data/build/input.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "base/error.h"
#include "base/log.h"
#include "base/text.h"
#include "base/utf8.h"
#include "data/corpus/manifest.h"
#include "text/kind.h"

namespace moesaic::data {
namespace {

namespace fs = std::filesystem;

std::string full_name(const fs::path& path) {
  return fs::absolute(path).lexically_normal().string();
}

[[noreturn]] void refuse(const fs::path& path, const std::string& why, Exit code = Exit::kNoInput) {
  throw Error(code, fmt::format("tokenize.input: {} {}", full_name(path), why));
}

[[noreturn]] void refuse(const fs::path& path, const std::error_code& error) {
  refuse(path, fmt::format("cannot be read: {}", error.message()),
         error == std::errc::io_error ? Exit::kIoError : Exit::kNoInput);
}

/// What a path is, behind its links.
fs::file_type type_of(const fs::path& path) {
  std::error_code error;
  const fs::file_type type = fs::status(path, error).type();
  if (type == fs::file_type::not_found) {
    std::error_code ignored;
    const fs::path target = fs::read_symlink(path, ignored);
    refuse(path, target.empty()
                     ? "does not exist"
                     : fmt::format("is a link to {}, which does not exist", target.string()));
  }
  if (error) {
    refuse(path, error);
  }
  return type;
}

/// One folder's files, while it is gone through.
class Folder {
 public:
  Folder(fs::path root, const text::TextFields& fields) : root_(std::move(root)), fields_(fields) {
    walk(root_, "");
    std::sort(found_.begin(), found_.end());
    leave_out_corpora();
    tell();
  }

  struct Found {
    std::string name;  // below the folder, with /
    fs::path path;
    text::TextKind kind;
    bool operator<(const Found& other) const {
      return std::tie(name, path) < std::tie(other.name, other.path);
    }
  };
  const std::vector<Found>& files() const { return found_; }

 private:
  void walk(const fs::path& folder, const fs::path& below);
  void add(const fs::path& file, const fs::path& below);
  void leave_out_corpora();
  void tell() const;

  fs::path root_;
  const text::TextFields& fields_;
  std::vector<fs::path> open_;  // the folders above, without links
  std::vector<Found> found_, left_;
  std::vector<fs::path> manifests_;
};

void Folder::walk(const fs::path& folder, const fs::path& below) {
  std::error_code error;
  const fs::path real = fs::canonical(folder, error);
  if (error) {
    refuse(folder, error);
  }
  if (std::find(open_.begin(), open_.end(), real) != open_.end()) {
    refuse(folder, fmt::format("is a link to {}, a folder that it lies in: remove the link",
                               real.string()));
  }
  open_.push_back(real);
  fs::directory_iterator entries(folder, error);
  for (; !error && entries != fs::directory_iterator(); entries.increment(error)) {
    const fs::path& path = entries->path();
    if (path.filename().string().starts_with('.')) {
      continue;
    }
    const fs::path name = below / path.filename();
    const fs::file_type type = type_of(path);
    if (type == fs::file_type::directory) {
      walk(path, name);
    } else if (type == fs::file_type::regular) {
      add(path, name);
    } else {
      left_.push_back(
          {name.generic_string(), path, {text::TextKind::Is::kBinary, false, "", false}});
    }
  }
  if (error) {
    refuse(folder, error);
  }
  open_.pop_back();
}

void Folder::add(const fs::path& file, const fs::path& below) {
  text::TextKind kind = text::kind_of(file);
  if (kind.is == text::TextKind::Is::kLines && !text::is_named_lines(file) &&
      !text::has_text_field(file, fields_)) {
    kind.is = text::TextKind::Is::kJson;
  }
  if (kind.manifest) {
    manifests_.push_back(file);
  }
  const bool text = kind.is == text::TextKind::Is::kText || kind.is == text::TextKind::Is::kLines;
  (text ? found_ : left_).push_back({below.generic_string(), file, kind});
}

/// The files of a corpus are no text, and nobody expects them to be.
void Folder::leave_out_corpora() {
  std::set<fs::path> own;
  for (const fs::path& manifest : manifests_) {
    try {
      const CorpusInfo info = read_corpus_manifest(manifest);
      own.insert({manifest, info.tokenizer});
      for (const ShardInfo& shard : info.shards) {
        own.insert(shard.file);
      }
    } catch (const Error&) {  // then it is a file as any other
    }
  }
  for (std::vector<Found>* list : {&found_, &left_}) {
    std::erase_if(*list, [&](const Found& file) { return own.contains(file.path); });
  }
}

void Folder::tell() const {
  std::vector<std::string> json, binary;
  for (const Found& file : left_) {
    (file.kind.is == text::TextKind::Is::kJson ? json : binary).push_back(file.name);
  }
  const auto warn = [&](std::vector<std::string>& names, const std::string& why) {
    if (names.empty()) {
      return;
    }
    constexpr std::size_t kShown = 3;
    std::sort(names.begin(), names.end());
    const std::size_t count = names.size();
    names.resize(std::min(count, kShown));
    log::warn(fmt::format("tokenize.input: {} in {} {}, left out: {}{}",
                          counted(static_cast<std::int64_t>(count), "file"), full_name(root_), why,
                          join(names, ", "), count > kShown ? ", ..." : ""));
  };
  warn(binary, "not text");
  warn(json, fmt::format(".json without an object a line that has '{}'", fields_.text));
}

text::InputFile input_file(const fs::path& path, const std::string& name, std::int64_t input,
                           const text::TextKind& kind) {
  return {path,
          with_replacements(name),
          input,
          static_cast<std::int64_t>(fs::file_size(path)),
          kind.is == text::TextKind::Is::kLines,
          kind.packed};
}

text::InputFile named_file(const fs::path& path, std::int64_t input) {
  const text::TextKind kind = text::kind_of(path);
  if (!kind.reason.empty()) {
    refuse(path, kind.reason, Exit::kBadData);
  }
  return input_file(path, path.filename().string(), input, kind);
}

/// Names that two inputs share are told apart by the inputs as they were given.
void make_names_distinct(const std::vector<std::string>& inputs,
                         std::vector<text::InputFile>& files) {
  std::map<std::string, int> uses;
  for (const text::InputFile& file : files) {
    ++uses[file.name];
  }
  for (text::InputFile& file : files) {
    if (uses[file.name] > 1) {
      const fs::path given = inputs[static_cast<std::size_t>(file.input)];
      const fs::path full = fs::is_directory(given) ? given / file.name : given;
      file.name = with_replacements(full.lexically_normal().generic_string());
    }
  }
}

}  // namespace

std::vector<text::InputFile> list_inputs(const std::vector<std::string>& inputs,
                                         const text::TextFields& fields) {
  std::vector<text::InputFile> files;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const fs::path path = inputs[i];
    const auto input = static_cast<std::int64_t>(i);
    const fs::file_type type = type_of(path);
    if (type == fs::file_type::directory) {
      const Folder folder(path, fields);
      for (const Folder::Found& file : folder.files()) {
        files.push_back(input_file(file.path, file.name, input, file.kind));
      }
    } else if (type == fs::file_type::regular) {
      files.push_back(named_file(path, input));
    } else {
      refuse(path, "is a pipe or a device, and text is read twice: write it to a file first");
    }
  }
  if (files.empty()) {
    throw Error(Exit::kNoInput,
                fmt::format("tokenize.input: no text files in {}", join(inputs, ", ")));
  }
  make_names_distinct(inputs, files);
  return files;
}

}  // namespace moesaic::data
