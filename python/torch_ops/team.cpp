// liboctavo's pools run on torch's OpenMP threads (docs/decisions/0035).
#include "support/team.h"

#include <omp.h>
#include <pthread.h>

namespace octavo::torch_ops {
namespace {

void run_on_team(int threads, TaskRef body) {
#pragma omp parallel num_threads(threads)
  body(0, omp_get_thread_num());
}

// OpenMP's threads are not in a forked process, and waiting for them would never end: pools go on
// with what they have there.
const bool registered = [] {
  use_team(run_on_team);
  pthread_atfork(nullptr, nullptr, [] { use_team(nullptr); });
  return true;
}();

}  // namespace
}  // namespace octavo::torch_ops
