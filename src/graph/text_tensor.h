// Numbers and tensors of the text form.
#pragma once
#include <string>

#include "graph/tensor.h"
#include "graph/text.h"
#include "graph/text_lexer.h"

namespace octavo {

std::string print_type(const TensorType& type);
TensorType parse_type(Lexer& lexer);

std::string print_real(double value);  // reads back to the same bits
double parse_real(Lexer& lexer);       // an integer too
int64_t parse_integer(Lexer& lexer);

// What follows `=` of a constant.
void print_elements(std::string& out, const Tensor& tensor, const PrintOptions& options);
Tensor parse_elements(Lexer& lexer, DType dtype, const Dims& dims);

}  // namespace octavo
