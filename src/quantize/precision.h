// How a product (conv, gemm, matmul …) is computed, and the mode of quantization, which is the
// precision of every product that no rule names.
#pragma once
#include <string>
#include <string_view>

namespace octavo {

enum class Precision {
  int8,          // activations u8 with scales from calibration, weights i8 per output channel
  dynamic,       // the same, but the scale of the activation is found at each call
  int8_weights,  // activations float, weights i8
  int4_weights,  // activations float, weights of 4 bits in groups
  float32,
};
const char* precision_name(Precision precision);  // as the rules file has it: "int8", …, "float"
// False if there is none of that name.
bool find_precision(std::string_view name, Precision& precision);

enum class QuantizeMode { static_, dynamic, weight_only };
const char* mode_name(QuantizeMode mode);  // "static", "dynamic", "weight_only"
// UserError naming the known modes.
QuantizeMode parse_mode(const std::string& name);
Precision precision_of(QuantizeMode mode);

}  // namespace octavo
