#include "files/hdf5/handle.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "base/io_error.h"
#include "base/text.h"

namespace moesaic::files {

namespace {

constexpr std::string_view kRemedy = "copy it again, or make it again";

std::string message_of(const std::filesystem::path& file, std::string_view object,
                       std::string_view what, const std::string& reason) {
  return fmt::format("{}: {}{}{}{}", file.string(), object, object.empty() ? "" : ": ", what,
                     reason.empty() ? "" : fmt::format(" ({})", reason));
}

}  // namespace

Hdf5Failure hdf5_failure() {
  Hdf5Failure failure;
  H5Ewalk(
      H5E_DEFAULT, H5E_WALK_UPWARD,
      [](unsigned level, const H5E_error2_t* error, void* out) -> herr_t {
        auto& first = *static_cast<Hdf5Failure*>(out);
        if (level == 0 && error->desc != nullptr) {
          first.reason = error->desc;
        }
        if (level == 0 && error->maj_num == H5E_RESOURCE) {
          first.error = ENOMEM;
        }
        return 0;
      },
      &failure);
  // For a failed system call keep only errno and its message: the rest is descriptors and offsets.
  constexpr std::string_view kNumber = "errno = ", kMessage = "error message = '";
  if (const std::size_t at = failure.reason.find(kNumber); at != std::string::npos) {
    failure.error = std::atoi(failure.reason.c_str() + at + kNumber.size());
  }
  if (const std::size_t at = failure.reason.find(kMessage); at != std::string::npos) {
    const std::size_t begin = at + kMessage.size();
    failure.reason = failure.reason.substr(begin, failure.reason.find('\'', begin) - begin);
  }
  return failure;
}

void fail_hdf5(Exit code, const std::filesystem::path& file, std::string_view object,
               std::string_view what, const std::string& reason) {
  throw Error(code, message_of(file, object, what, reason));
}

void fail_read(const Subject& subject, std::string_view what, const Hdf5Failure& failure) {
  if (failure.error != 0) {
    fail_hdf5(exit_of_read(failure.error), subject.file, subject.object, what, failure.reason);
  }
  fail_hdf5(Exit::kBadData, subject.file, subject.object, fmt::format("{}; {}", what, kRemedy),
            failure.reason);
}

void check_read(std::int64_t status, const Subject& subject, std::string_view what) {
  if (status < 0) {
    fail_read(subject, what, hdf5_failure());
  }
}

void abandon(hid_t file) {
  // HDF5 reads what it has forgotten of a file before it closes it: of a large one it then may not.
  constexpr off_t kMostCopied = off_t{64} << 20U;
  void* handle = nullptr;
  const int sink = memfd_create("moesaic-abandoned", MFD_CLOEXEC);
  if (sink >= 0 && H5Fget_vfd_handle(file, H5P_DEFAULT, &handle) >= 0) {
    const int source = *static_cast<int*>(handle);
    const off_t size = ::lseek(source, 0, SEEK_END);
    off_t at = 0;
    while (at < size && size <= kMostCopied &&
           ::sendfile(sink, source, &at, static_cast<std::size_t>(size - at)) > 0) {
    }
    dup2(sink, source);
  }
  ::close(sink);
}

void fail_write(const Subject& subject, std::string_view what, const Hdf5Failure& failure) {
  if (subject.id >= 0) {
    abandon(subject.id);
  }
  throw WriteError(failure.error, message_of(subject.file, subject.object, what, failure.reason));
}

void check_write(std::int64_t status, const Subject& subject, std::string_view what) {
  if (status < 0) {
    fail_write(subject, what, hdf5_failure());
  }
}

bool link_exists(hid_t file, const Subject& subject) {
  std::string path;
  for (const std::string& part : split(subject.object, '/')) {
    if (part.empty()) {
      continue;
    }
    path += "/" + part;
    const htri_t exists = H5Lexists(file, path.c_str(), H5P_DEFAULT);
    check_read(exists, subject, "cannot be looked up");
    if (exists == 0) {
      return false;
    }
  }
  return true;
}

bool attribute_exists(hid_t file, const Subject& subject, const std::string& name) {
  if (!link_exists(file, subject)) {
    return false;
  }
  const htri_t exists = H5Aexists_by_name(file, subject.object.c_str(), name.c_str(), H5P_DEFAULT);
  check_read(exists, subject, fmt::format("cannot look up attribute '{}'", name));
  return exists > 0;
}

Handle open_object(hid_t file, const Subject& subject) {
  if (!link_exists(file, subject)) {
    fail_hdf5(Exit::kBadData, subject.file, subject.object, "is missing", "");
  }
  Handle object(H5Oopen(file, subject.object.c_str(), H5P_DEFAULT), H5Oclose);
  check_read(object.id(), subject, "cannot be opened");
  return object;
}

Handle open_dataset(hid_t file, const Subject& subject) {
  Handle object = open_object(file, subject);
  if (H5Iget_type(object.id()) != H5I_DATASET) {
    fail_hdf5(Exit::kBadData, subject.file, subject.object, "is not a dataset", "");
  }
  return object;
}

}  // namespace moesaic::files
