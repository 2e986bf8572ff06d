// The selectors, one file per kind of work (select_*.cpp), listed in select.cpp.
#pragma once
#include "codegen/select.h"

namespace octavo {

void select_conv(const Node& node, Selected& selected);  // fused_conv, fused_gemm

}  // namespace octavo
