#include "files/hdf5/file.h"

#include <fmt/format.h>

#include <cerrno>
#include <chrono>
#include <functional>
#include <map>
#include <thread>

#include "base/timer.h"
#include "base/unclean_end.h"
#include "files/durable.h"
#include "files/hdf5/handle.h"
#include "files/hdf5/thread.h"

namespace moesaic::files {
namespace {

/// Says in plain words what HDF5 would say badly, and keeps it from files that are not its own.
void check_magic(const std::filesystem::path& file) {
  const auto absolute = std::filesystem::absolute(file);
  std::error_code error;
  if (std::filesystem::is_directory(file, error)) {
    fail_hdf5(Exit::kNoInput, absolute, "", "is a folder, not an HDF5 file", "");
  }
  constexpr std::string_view kMagic = "\x89HDF\r\n\x1a\n";
  const std::string start = read_start(file, std::ssize(kMagic));
  if (start != kMagic) {
    fail_hdf5(Exit::kBadData, absolute, "",
              start.empty() ? "is empty" : "is not an HDF5 file (its first 8 bytes differ)", "");
  }
}

/// A file's id, or why there is none.
struct Opened {
  hid_t id = -1;
  Hdf5Failure failure;
};

bool is_locked(const Opened& opened) { return opened.id < 0 && opened.failure.error == EAGAIN; }

// On a file system that has no locks (errno 524: Linux's NFS), goes on without them.
Opened with_locks_if_any(hid_t access, const std::function<hid_t()>& open) {
  Opened opened{open(), {}};
  if (opened.id < 0) {
    opened.failure = hdf5_failure();
  }
  for (const int error : {ENOLCK, EOPNOTSUPP, 524}) {
    if (opened.failure.error == error) {
      H5Pset_file_locking(access, false, true);
      opened.id = open();
      opened.failure = opened.id < 0 ? hdf5_failure() : Hdf5Failure{};
      break;
    }
  }
  return opened;
}

// Headers that HDF5 keeps of closed datasets: by default up to 32 MiB as the file counts, and in
// memory a multiple of that.
void bound_headers_kept(hid_t access) {
  constexpr std::size_t kKept = std::size_t{1} << 18U;
  H5AC_cache_config_t config{};
  config.version = H5AC__CURR_CACHE_CONFIG_VERSION;
  if (H5Pget_mdc_config(access, &config) >= 0) {
    config.set_initial_size = true;
    config.initial_size = config.min_size = config.max_size = kKept;
    config.incr_mode = H5C_incr__off;
    config.flash_incr_mode = H5C_flash_incr__off;
    config.decr_mode = H5C_decr__off;
    H5Pset_mdc_config(access, &config);
  }
}

Opened open_checked(const std::filesystem::path& file, unsigned flags, bool lock = true) {
  require(on_hdf5_thread(), "HDF5 file opened on another thread");
  check_magic(file);
  const Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  if (!lock) {
    H5Pset_file_locking(access.id(), false, true);
  }
  return with_locks_if_any(access.id(), [&] { return H5Fopen(file.c_str(), flags, access.id()); });
}

[[noreturn]] void fail_open(const std::filesystem::path& file, const Opened& opened,
                            unsigned flags = H5F_ACC_RDWR) {
  if (is_locked(opened)) {
    fail_hdf5(Exit::kNoInput, file, "", "is locked by another process: try again when it is done",
              "");
  }
  if (opened.failure.error == 0) {
    fail_read({file, ""}, "is damaged", opened.failure);
  }
  if (flags == H5F_ACC_RDWR) {
    fail_write({file, ""}, "cannot be opened to write", opened.failure);
  }
  fail_read({file, ""}, "cannot be opened", opened.failure);
}

}  // namespace

// Closing a dataset writes what is left of it, and breaks it if that fails: they stay open until
// the file has been flushed as a whole, and what could not be written has been given up.
struct Hdf5File::Written {
  std::map<std::string, Handle> open;
};

namespace {

/// Closes the file and its datasets; returns why it could not be written, or nothing.
template <class Written>
std::optional<Hdf5Failure> release(hid_t file, std::unique_ptr<Written> written) {
  std::optional<Hdf5Failure> failure;
  if (H5Fflush(file, H5F_SCOPE_GLOBAL) < 0) {
    failure = hdf5_failure();
    abandon(file);
  }
  written.reset();
  if (H5Fclose(file) < 0) {
    failure = failure ? failure : hdf5_failure();
    end_without_clean_up();
  }
  return failure;
}

Handle open_attribute(hid_t file, const Subject& subject, const std::string& name) {
  if (!attribute_exists(file, subject, name)) {
    fail_hdf5(Exit::kBadData, subject.file, subject.object,
              fmt::format("has no attribute '{}'", name), "");
  }
  Handle attribute(
      H5Aopen_by_name(file, subject.object.c_str(), name.c_str(), H5P_DEFAULT, H5P_DEFAULT),
      H5Aclose);
  check_read(attribute.id(), subject, fmt::format("cannot open attribute '{}'", name));
  return attribute;
}

std::size_t attribute_count(hid_t attribute) {
  const Handle space(H5Aget_space(attribute), H5Sclose);
  const hssize_t count = space.valid() ? H5Sget_simple_extent_npoints(space.id()) : 0;
  return count > 0 ? static_cast<std::size_t>(count) : 0;
}

std::vector<std::string> attribute_strings(hid_t file, const Subject& subject,
                                           const std::string& name) {
  const Handle attribute = open_attribute(file, subject, name);
  const Handle type(H5Aget_type(attribute.id()), H5Tclose);
  const Subject part{subject.file, fmt::format("{}: attribute '{}'", subject.object, name)};
  const std::size_t count = attribute_count(attribute.id());
  check_plausible({static_cast<std::int64_t>(count)}, H5Tget_size(type.id()), part);
  return strings_of(type.id(), count, part,
                    [&](hid_t memory, void* out) { return H5Aread(attribute.id(), memory, out); });
}

template <class T>
std::vector<T> attribute_numbers(hid_t file, const Subject& subject, const std::string& name) {
  const Handle attribute = open_attribute(file, subject, name);
  const Handle type(H5Aget_type(attribute.id()), H5Tclose);
  const H5T_class_t kind = H5Tget_class(type.id());
  if (kind != H5T_INTEGER && (kind != H5T_FLOAT || !std::is_floating_point_v<T>)) {
    fail_hdf5(Exit::kBadData, subject.file, subject.object,
              fmt::format("attribute '{}' holds no {}", name,
                          std::is_floating_point_v<T> ? "number" : "whole number"),
              "");
  }
  std::vector<T> values(attribute_count(attribute.id()));
  if (!values.empty()) {
    check_read(H5Aread(attribute.id(), type_id<T>(), values.data()), subject,
               fmt::format("cannot read attribute '{}'", name));
  }
  return values;
}

template <class T>
T the_only(const std::vector<T>& values, const Subject& subject, const std::string& name) {
  if (values.size() != 1) {
    fail_hdf5(Exit::kBadData, subject.file, subject.object,
              fmt::format("attribute '{}' has {} values, not one", name, values.size()), "");
  }
  return values.front();
}

void put_attribute(hid_t file, const Subject& subject, const std::string& name, hid_t type,
                   hid_t space, const void* value) {
  const Handle object(H5Oopen(file, subject.object.c_str(), H5P_DEFAULT), H5Oclose);
  check_write(object.id(), subject, "cannot be opened to set an attribute");
  if (H5Aexists(object.id(), name.c_str()) > 0) {
    H5Adelete(object.id(), name.c_str());
  }
  const std::string what = fmt::format("cannot write attribute '{}'", name);
  const Handle attribute(
      H5Acreate(object.id(), name.c_str(), type, space, H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
  check_write(attribute.id(), subject, what);
  if (value != nullptr) {  // an empty list has nothing to write
    check_write(H5Awrite(attribute.id(), type, value), subject, what);
  }
}

}  // namespace

Hdf5File::Hdf5File(std::filesystem::path file, std::int64_t id)
    : path_(std::move(file)), id_(id), written_(std::make_unique<Written>()) {}

void Hdf5File::keep_open(const std::string& dataset, std::int64_t id) {
  Handle owned(id, H5Dclose);
  constexpr std::size_t kMost = 256;  // bounds the memory, whatever the number of datasets
  if (written_->open.size() == kMost) {
    check_write(H5Fflush(id_, H5F_SCOPE_GLOBAL), {path_, "", id_}, "cannot be written");
    written_->open.clear();
  }
  written_->open.emplace(dataset, std::move(owned));
}

std::int64_t Hdf5File::to_write(const std::string& dataset) {
  if (!written_->open.contains(dataset)) {
    keep_open(dataset, open_dataset(id_, {path_, dataset}).release());
  }
  return written_->open.at(dataset).id();
}

Hdf5File Hdf5File::open(const std::filesystem::path& file) {
  const Opened opened = open_checked(file, H5F_ACC_RDONLY);
  if (opened.id < 0) {
    fail_open(file, opened, H5F_ACC_RDONLY);
  }
  return Hdf5File(file, opened.id);
}

std::optional<Hdf5File> Hdf5File::open_unless_locked(const std::filesystem::path& file) {
  const Opened opened = open_checked(file, H5F_ACC_RDWR);
  if (opened.id >= 0) {
    return Hdf5File(file, opened.id);
  }
  if (is_locked(opened)) {
    return std::nullopt;
  }
  fail_open(file, opened);
}

Hdf5File Hdf5File::open_patiently(const std::filesystem::path& file) {
  const Timer timer;
  while (timer.seconds() < kReaderPatience) {
    if (std::optional<Hdf5File> opened = open_unless_locked(file)) {
      return std::move(*opened);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  const Opened opened = open_checked(file, H5F_ACC_RDWR, false);
  if (opened.id < 0) {
    fail_open(file, opened);
  }
  return Hdf5File(file, opened.id);
}

Hdf5File Hdf5File::open_to_write(const std::filesystem::path& file) {
  const Opened opened = open_checked(file, H5F_ACC_RDWR);
  if (opened.id < 0) {
    fail_open(file, opened);
  }
  return Hdf5File(file, opened.id);
}

Hdf5File Hdf5File::create(const std::filesystem::path& file) {
  require(on_hdf5_thread(), "HDF5 file created on another thread");
  // The format of HDF5 1.8: its headers carry checksums, and attributes may exceed 64 KiB. That of
  // 1.10 would be marked as open after a kill, and refused. No times: equal data make equal files.
  const Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  H5Pset_libver_bounds(access.id(), H5F_LIBVER_V18, H5F_LIBVER_V18);
  bound_headers_kept(access.id());
  const Handle creation(H5Pcreate(H5P_FILE_CREATE), H5Pclose);
  H5Pset_obj_track_times(creation.id(), false);
  const Opened created = with_locks_if_any(access.id(), [&] {
    return H5Fcreate(file.c_str(), H5F_ACC_TRUNC, creation.id(), access.id());
  });
  if (created.id < 0) {
    fail_write({std::filesystem::absolute(file), ""}, "cannot be created", created.failure);
  }
  return Hdf5File(file, created.id);
}

Hdf5File::Hdf5File(Hdf5File&& other) noexcept
    : path_(std::move(other.path_)),
      id_(std::exchange(other.id_, -1)),
      written_(std::move(other.written_)) {}

Hdf5File& Hdf5File::operator=(Hdf5File&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(id_, other.id_);
  std::swap(written_, other.written_);
  return *this;
}

Hdf5File::~Hdf5File() {
  if (id_ >= 0) {
    hdf5_run([this] { release(id_, std::move(written_)); });
  }
}

void Hdf5File::close() {
  if (id_ < 0) {
    return;
  }
  if (const auto failure = release(std::exchange(id_, -1), std::move(written_))) {
    fail_write({path_, ""}, "cannot be written completely", *failure);
  }
}

bool Hdf5File::has(const std::string& object) const { return link_exists(id_, {path_, object}); }

std::vector<std::string> Hdf5File::members(const std::string& group) const {
  const Subject subject{path_, group};
  const Handle object = open_object(id_, subject);
  std::vector<std::string> names;
  const auto add = [](hid_t, const char* name, const H5L_info_t*, void* out) -> herr_t {
    static_cast<std::vector<std::string>*>(out)->emplace_back(name);
    return 0;
  };
  check_read(H5Literate(object.id(), H5_INDEX_NAME, H5_ITER_INC, nullptr, add, &names), subject,
             "is not a readable group");
  return names;
}

bool Hdf5File::has_attribute(const std::string& object, const std::string& name) const {
  return attribute_exists(id_, {path_, object}, name);
}

std::vector<std::string> Hdf5File::strings_attribute(const std::string& object,
                                                     const std::string& name) const {
  return attribute_strings(id_, {path_, object}, name);
}

std::string Hdf5File::string_attribute(const std::string& object, const std::string& name) const {
  return the_only(strings_attribute(object, name), {path_, object}, name);
}

std::vector<std::int64_t> Hdf5File::ints_attribute(const std::string& object,
                                                   const std::string& name) const {
  return attribute_numbers<std::int64_t>(id_, {path_, object}, name);
}

std::int64_t Hdf5File::int_attribute(const std::string& object, const std::string& name) const {
  return the_only(ints_attribute(object, name), {path_, object}, name);
}

double Hdf5File::double_attribute(const std::string& object, const std::string& name) const {
  const Subject subject{path_, object};
  return the_only(attribute_numbers<double>(id_, subject, name), subject, name);
}

void Hdf5File::set_attribute(const std::string& object, const std::string& name,
                             const std::string& value) {
  const Handle space(H5Screate(H5S_SCALAR), H5Sclose);
  const std::size_t width = widest({&value, 1});
  put_attribute(id_, {path_, object, id_}, name, string_type(width).id(), space.id(),
                packed({&value, 1}, width).data());
}

void Hdf5File::set_attribute(const std::string& object, const std::string& name,
                             std::int64_t value) {
  const Handle space(H5Screate(H5S_SCALAR), H5Sclose);
  put_attribute(id_, {path_, object, id_}, name, type_id<std::int64_t>(), space.id(), &value);
}

void Hdf5File::set_attribute(const std::string& object, const std::string& name, double value) {
  const Handle space(H5Screate(H5S_SCALAR), H5Sclose);
  put_attribute(id_, {path_, object, id_}, name, type_id<double>(), space.id(), &value);
}

void Hdf5File::set_attribute(const std::string& object, const std::string& name,
                             const std::vector<std::int64_t>& values) {
  const hsize_t count = values.size();
  const Handle space(H5Screate_simple(1, &count, nullptr), H5Sclose);
  put_attribute(id_, {path_, object, id_}, name, type_id<std::int64_t>(), space.id(),
                values.data());
}

void Hdf5File::set_attribute(const std::string& object, const std::string& name,
                             const std::vector<std::string>& values) {
  const hsize_t count = values.size();
  const Handle space(H5Screate_simple(1, &count, nullptr), H5Sclose);
  const std::size_t width = widest(values);
  put_attribute(id_, {path_, object, id_}, name, string_type(width).id(), space.id(),
                values.empty() ? nullptr : packed(values, width).data());
}

}  // namespace moesaic::files
