// Parameters of ops that are attributes or, where a file computes them, inputs (ParameterSpec).
#pragma once
#include <optional>

#include "graph/op_def.h"
#include "ops/onnx_rules.h"

namespace octavo::ops {

// The value of a parameter: its attribute (or the fallback) if the input is left out, else the
// input's if that is constant; none if it is known only at run time.
std::optional<Ints> known_ints(const Node& node, std::string_view name);
std::optional<Floats> known_reals(const Node& node, std::string_view name);
std::optional<int64_t> known_integer(const Node& node, std::string_view name);
// The same where kernels run: InternalError if it is not known.
Ints ints_of(const Node& node, std::string_view name);
int64_t integer_of(const Node& node, std::string_view name);

// How many elements a list has, known or not; UserError if it is no vector of known length.
int64_t list_length(const Node& node, std::string_view name);

// ONNX's input `i` as parameter `name` of `op`: an attribute if it is constant, else an input of
// the new node. Nothing if it is left out.
void import_parameter(OnnxNodeReader& reader, size_t i, std::string_view op, std::string_view name,
                      Attributes& attributes, std::vector<Value*>& inputs);
// The ONNX name of a parameter: its input's, or an initializer of the attribute.
std::string parameter_name(const Node& node, std::string_view name, OnnxNodeWriter& writer);

}  // namespace octavo::ops

namespace octavo {
// Constant inputs that are parameters become attributes; returns whether any did.
bool absorb_parameters(Node& node);
}  // namespace octavo
