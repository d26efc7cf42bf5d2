#include "base/io_error.h"

#include <fmt/format.h>

#include <cerrno>

namespace moesaic {

bool storage_failed(int error) {
  switch (error) {
    case EIO:
    case EREMOTEIO:
    case EUCLEAN:  // ext4 and XFS: damaged structures of the file system
    case EBADMSG:
    case ENODATA:
    case EKEYEXPIRED:
    case ESTALE:
    case EINTR:
    case EAGAIN:
    case EBUSY:
    case ENODEV:
    case ENXIO:
    case ENOLINK:
    case ECOMM:
    case EPROTO:
    case ETIMEDOUT:
    case ENOTCONN:
    case ESHUTDOWN:
    case ECONNABORTED:
    case ECONNREFUSED:
    case ECONNRESET:
    case EHOSTDOWN:
    case EHOSTUNREACH:
    case ENETDOWN:
    case ENETRESET:
    case ENETUNREACH:
    case ENOMEM:
    case ENOBUFS:
    case EMFILE:
    case ENFILE:
      return true;
    default:
      return false;
  }
}

Exit exit_of_read(int error) { return storage_failed(error) ? Exit::kIoError : Exit::kNoInput; }

void at_start(const std::function<void()>& step) {
  try {
    step();
  } catch (const WriteError& error) {
    if (error.error() == 0 || storage_failed(error.error())) {
      throw;
    }
    throw Error(Exit::kCannotCreate, error.what(), error.where());
  }
}

Error to_error(const std::filesystem::filesystem_error& error, Where where) {
  const int number = error.code().value();
  std::string message = error.code().message();
  for (const auto& path : {error.path2(), error.path1()}) {
    if (!path.empty()) {
      message.insert(0, std::filesystem::path(path).string() + ": ");
    }
  }
  switch (number) {
    case EROFS:
    case ENOSPC:
    case EDQUOT:
    case EEXIST:
    case ENOTEMPTY:
      return {Exit::kCannotCreate, message, where};
    case ENOENT:
    case ENOTDIR:
    case EISDIR:
    case ELOOP:
    case ENAMETOOLONG:
    case EACCES:
    case EPERM:
      return {Exit::kNoInput, message, where};
    default:
      return {storage_failed(number) ? Exit::kIoError : Exit::kInternal, message, where};
  }
}

}  // namespace moesaic
