#include "backend/backend.h"
#include "backend/gpus.h"

// Linked where the CUDA toolkit is absent.
namespace moesaic {
namespace {

[[noreturn]] void refuse() {
  throw Error(Exit::kUsage, "run.device = cuda: this build has no CUDA; use run.device = cpu");
}

}  // namespace

bool cuda_is_built_in() { return false; }

std::unique_ptr<Backend> make_cuda_backend(int /*device*/) { refuse(); }
int visible_gpus() { refuse(); }
Gpu gpu_facts(int /*device*/) { refuse(); }

}  // namespace moesaic
