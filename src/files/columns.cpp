#include "files/columns.h"

#include <fmt/format.h>

#include "base/error.h"
#include "base/log.h"
#include "files/durable.h"
#include "files/hdf5/thread.h"

namespace moesaic::files {

void describe(Hdf5File& file, const std::string& dataset, const std::string& units,
              const std::string& long_name) {
  file.set_attribute(dataset, "units", units);
  file.set_attribute(dataset, "long_name", long_name);
}

void create_text_column(Hdf5File& file, const std::string& dataset, std::int64_t chunk,
                        std::int64_t width) {
  file.create_strings(dataset, width,
                      {.chunk = {chunk}, .unlimited = true, .checksum = true, .compress = true});
}

void append(Hdf5File& file, const std::string& dataset, const std::vector<std::string>& values) {
  const std::int64_t at = file.extents(dataset).front();
  if (!values.empty()) {
    file.extend(dataset, {at + std::ssize(values)});
    file.write_strings(dataset, at, values);
  }
}

void check_axis(const Hdf5File& file, std::string_view axis, const std::string& was,
                const std::string& is) {
  if (was != is) {
    throw Error(Exit::kMismatch,
                fmt::format("{}: its {} is {}, this run's is {}: name another trace.path, or "
                            "rename the file",
                            file.path().string(), axis, was, is));
  }
}

NewHdf5File::NewHdf5File(const std::filesystem::path& path)
    : path_(path), temporary_(path.string() + ".tmp"), file_(Hdf5File::create(temporary_)) {}

NewHdf5File::~NewHdf5File() {
  if (!published_) {
    std::error_code ignored;
    std::filesystem::remove(temporary_, ignored);
  }
}

void NewHdf5File::publish_as(const std::filesystem::path& path) {
  file_.close();
  files::publish(temporary_, path);
  published_ = true;
}

void begin_file(const std::filesystem::path& path, std::string_view older,
                const std::function<void(Hdf5File&)>& fill) {
  make_folder(std::filesystem::absolute(path).parent_path());
  std::filesystem::path temporary = path;
  temporary += ".tmp";
  hdf5_run([&] {
    Hdf5File created = Hdf5File::create(temporary);
    fill(created);
    created.close();
  });
  if (const std::filesystem::path aside = set_aside(path); !aside.empty()) {
    log::info(fmt::format("{} is now {}", older, aside.string()));
  }
  publish(temporary, path);
}

}  // namespace moesaic::files
