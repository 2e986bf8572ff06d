// torch.autocast where it changes nothing: switched off where it is off.
#include <ATen/autocast_mode.h>

#include "call_table.h"
#include "python_types.h"
#include "tracer.h"

namespace octavo::capture {
namespace {

// Sets what is set already; anything else is a change that the graph does not have.
std::function<V(Tracer&, Call&)> sets(const char* getter) {
  return [getter](Tracer& t, Call& call) {
    const size_t count = call.args.size();
    if (count == 0 || count > 2 || !call.keywords.empty()) give_up(Reason::wrong_call, getter);
    Call ask{{call.args.begin(), call.args.end() - 1}, {}};
    const V now = t.fold(well_known("torch", getter), ask);
    if (!now || !t.same_object(now, call.args.back()))
      give_up(Reason::side_effect, "a change of autocast");
    return t.none();
  };
}

}  // namespace

int Tracer::autocast_nesting(bool begin) {
  const int real = at::autocast::increment_nesting() - 1;
  at::autocast::decrement_nesting();
  if (!begin && autocast_nesting_ == 0) give_up(Reason::side_effect, "leaving autocast");
  count_mode(autocast_nesting_, begin);
  return real + autocast_nesting_;
}

void add_autocast(CallTable& table) {
  const auto on = [&](const char* name, std::function<V(Tracer&, Call&)> handler) {
    table.handlers[well_known("torch", name)] = std::move(handler);
  };
  on("set_autocast_enabled", sets("is_autocast_enabled"));
  on("set_autocast_dtype", sets("get_autocast_dtype"));
  on("set_autocast_cache_enabled", sets("is_autocast_cache_enabled"));
  on("autocast_increment_nesting",
     [](Tracer& t, Call&) { return t.integer(t.autocast_nesting(true)); });
  on("autocast_decrement_nesting",
     [](Tracer& t, Call&) { return t.integer(t.autocast_nesting(false)); });
  // Where autocast is off nothing reads the cache.
  on("clear_autocast_cache", [](Tracer& t, Call&) {
    if (at::autocast::is_autocast_enabled(at::kCPU))
      give_up(Reason::side_effect, "autocast's cache");
    return t.none();
  });
}

}  // namespace octavo::capture
