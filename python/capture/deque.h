// collections.deque of the traced program: a sequence with two ends.
#pragma once
#include "tracer.h"

namespace octavo::capture {

V make_deque(Tracer& tracer, Call& call);
V deque_method(Tracer& tracer, const std::shared_ptr<Sequence>& self, const std::string& name,
               Call& call, bool& known);

}  // namespace octavo::capture
