#include "io/hdf5_handle.h"

#include <fmt/format.h>

#include "base/text.h"

namespace moesaic::io {

std::string hdf5_reason() {
  std::string reason;
  H5Ewalk(
      H5E_DEFAULT, H5E_WALK_UPWARD,
      [](unsigned level, const H5E_error2_t* error, void* out) -> herr_t {
        if (level == 0 && error->desc != nullptr) {
          *static_cast<std::string*>(out) = error->desc;
        }
        return 0;
      },
      &reason);
  // Of a failed system call, only its message: the rest is descriptors, buffers and offsets.
  constexpr std::string_view kMessage = "error message = '";
  if (const std::size_t at = reason.find(kMessage); at != std::string::npos) {
    const std::size_t begin = at + kMessage.size();
    return reason.substr(begin, reason.find('\'', begin) - begin);
  }
  return reason;
}

void fail_hdf5(Exit code, const std::filesystem::path& file, std::string_view object,
               std::string_view what, const std::string& reason) {
  std::string message = file.string() + ": ";
  if (!object.empty()) {
    message += fmt::format("{}: ", object);
  }
  message += what;
  if (!reason.empty()) {
    message += fmt::format(" ({})", reason);
  }
  throw Error(code, message);
}

void check_read(std::int64_t status, const Subject& subject, std::string_view what) {
  if (status < 0) {
    fail_hdf5(Exit::kBadData, subject.file, subject.object, what);
  }
}

void check_write(std::int64_t status, const Subject& subject, std::string_view what) {
  if (status < 0) {
    fail_hdf5(Exit::kIoError, subject.file, subject.object, what);
  }
}

bool link_exists(hid_t file, const std::string& object) {
  std::string path;
  for (const std::string& part : split(object, '/')) {
    if (part.empty()) {
      continue;
    }
    path += "/" + part;
    if (H5Lexists(file, path.c_str(), H5P_DEFAULT) <= 0) {
      return false;
    }
  }
  return true;
}

Handle open_object(hid_t file, const Subject& subject) {
  if (!link_exists(file, subject.object)) {
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

}  // namespace moesaic::io
