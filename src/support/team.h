// Threads that something else in the process keeps, for pools to run on.
#pragma once
#include "support/thread_pool.h"

namespace octavo {

// From then on pools run their tasks on these threads and not on workers of their own
// (docs/decisions/0035): torch's OpenMP team spins for milliseconds after each of its operators,
// and a second team would share its cores with that. run(threads, body) calls body(0, t) for each t
// of [0, n) at once and returns when all have, where 1 <= n <= threads is its choice. null: each
// pool's own workers again. A call changes what starts after it.
using TeamRun = void (*)(int threads, TaskRef body);
void use_team(TeamRun run);

}  // namespace octavo
