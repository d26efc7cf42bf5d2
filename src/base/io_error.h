#pragma once

#include <filesystem>
#include <functional>
#include <string>

#include "base/error.h"

// The one place that turns the errno of a call on a file into an exit code.
namespace moesaic {

/// Whether storage, network or host failed the call (EIO, ESTALE, ETIMEDOUT, ENOTCONN, EINTR, ...):
/// the file may be sound, and the same job may succeed later.
bool storage_failed(int error);

/// The exit code of a call that failed while it looked for, opened or read a file: kIoError if the
/// storage failed, else kNoInput. Never kBadData, which is for bytes that were read.
Exit exit_of_read(int error);

/// A file that could not be created or written: kIoError, whatever the reason.
class WriteError : public Error {
 public:
  WriteError(int error, const std::string& message, Where where = Where::here())
      : Error(Exit::kIoError, message, where), error_(error) {}
  /// errno; 0 if it is not known.
  int error() const { return error_; }

 private:
  int error_;
};

/// Runs the step of a job's start that makes its outputs. Its WriteError becomes kCannotCreate
/// unless the storage failed: a missing permission, a read-only or a full disk would stop the same
/// job again.
void at_start(const std::function<void()>& step);

/// "PATH: reason" with the code that the errno has on either way: kIoError if the storage failed,
/// kCannotCreate if the disk is full or read-only, kNoInput if the path is not there or not ours.
Error to_error(const std::filesystem::filesystem_error& error, Where where = Where::here());

}  // namespace moesaic
