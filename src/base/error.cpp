#include "base/error.h"

namespace moesaic {

Error::Error(Exit code, const std::string& message, Where where)
    : std::runtime_error(message), code_(code), where_(where) {}
Error::Error(const Error&) = default;
Error& Error::operator=(const Error&) = default;
Error::~Error() = default;

void fail_requirement(std::string_view what, Where where) {
  throw Error(Exit::kInternal, std::string(what), where);
}

}  // namespace moesaic
