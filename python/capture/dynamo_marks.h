// What a program says with torch's own marks: torch._dynamo.disable, allow_in_graph and the like,
// of which torch.compiler has the same. torch._dynamo is never imported for it.
#pragma once
#include "object.h"

namespace octavo::capture {

enum class DynamoMark : uint8_t {
  none,
  breaks,     // graph_break, skip_frame, step_unsupported
  compiling,  // is_compiling: true
  ignored,    // mark_dynamic and others that only advise
};
// Of a function of torch._dynamo itself.
DynamoMark dynamo_mark(PyObject* function);

bool dynamo_allows(PyObject* callable);     // by allow_in_graph
bool dynamo_disallows(PyObject* callable);  // by disallow_in_graph
bool dynamo_constant(PyObject* function);   // by assume_constant_result

// torch._dynamo's mode TransformGetItemToIndex.
bool is_index_by_tensors(PyObject* object);

// The code of what torch._dynamo.disable(f) and torch.compile(f) give: what runs within is not
// ours.
bool is_dynamos_own(PyCodeObject* code);
// `function`, so wrapped, is a method of torch's optimizers: a process that has used torch.compile
// finds them wrapped, and what they do is traced all the same. Borrowed, null where it is none.
PyObject* disabled_optimizer(PyObject* function);

}  // namespace octavo::capture
