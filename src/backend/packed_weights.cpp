#include "backend/packed_weights.h"

namespace moesaic {

const char* name_of(PackedFormat format) {
  switch (format) {
    case PackedFormat::kBf16:
      return "bf16";
    case PackedFormat::kInt8:
      return "int8";
    case PackedFormat::kInt4:
      return "int4";
  }
  return "";
}

}  // namespace moesaic
