// What capture keeps with a code object.
#pragma once
#include "cpython_311/code.h"

namespace octavo::capture {

// The decoded code; made at the first look, freed with the code object.
const Code& code_of(PyCodeObject* code);

}  // namespace octavo::capture
