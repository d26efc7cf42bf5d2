#include "support/temp_dir.h"

#include <cstdlib>
#include <fstream>
#include <sstream>

#include "base/error.h"

namespace moesaic::testing {

TempDir::TempDir() {
  std::string name = (std::filesystem::temp_directory_path() / "moesaic-XXXXXX").string();
  require(mkdtemp(name.data()) != nullptr, "cannot make a temporary folder");
  path_ = name;
}

TempDir::~TempDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

void write_file(const std::filesystem::path& file, const std::string& text) {
  std::ofstream out(file, std::ios::binary);
  out << text;
  require(out.good(), "cannot write " + file.string());
}

std::string read_file(const std::filesystem::path& file) {
  const std::ifstream in(file, std::ios::binary);
  require(in.good(), "cannot read " + file.string());
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

void flip_bit(const std::filesystem::path& file, std::int64_t offset) {
  std::fstream stream(file, std::ios::binary | std::ios::in | std::ios::out);
  stream.seekg(offset, offset < 0 ? std::ios::end : std::ios::beg);
  const auto at = stream.tellg();
  const char byte = static_cast<char>(stream.get() ^ 1);
  stream.seekp(at);
  stream.put(byte);
  require(stream.good(), "cannot flip a bit of " + file.string());
}

}  // namespace moesaic::testing
