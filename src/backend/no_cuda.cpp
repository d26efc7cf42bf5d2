#include "backend/backend.h"

// Linked where the CUDA toolkit is absent.
namespace moesaic {

bool cuda_is_built_in() { return false; }

std::unique_ptr<Backend> make_cuda_backend(int /*device*/) {
  throw Error(Exit::kUsage, "run.device = cuda: this build has no CUDA; use run.device = cpu");
}

}  // namespace moesaic
