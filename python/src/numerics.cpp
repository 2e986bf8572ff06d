#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include "bindings.h"
#include "quantize/arithmetic.h"
#include "support/error.h"

namespace octavo::python {
namespace {

Granularity parse_granularity(const std::string& name) {
  if (name == "tensor") return Granularity::tensor;
  if (name == "axis") return Granularity::axis;
  if (name == "group") return Granularity::group;
  throw UserError(ErrorKind::value, "granularity", fmt::format("'{}' is not known", name),
                  "use tensor, axis or group");
}

const char* granularity_name(Granularity g) {
  constexpr const char* names[] = {"tensor", "axis", "group"};
  return names[static_cast<int>(g)];
}

Scheme make_scheme(int bits, bool is_signed, bool narrow, bool symmetric,
                   const std::string& granularity, int64_t axis, int64_t group_size,
                   const std::string& scale_dtype) {
  Scheme s{bits,
           is_signed,
           narrow,
           symmetric,
           parse_granularity(granularity),
           axis,
           group_size,
           parse_dtype(scale_dtype)};
  s.validate();
  return s;
}

// Numbers and lists too.
Tensor to_small_tensor(nb::handle object, const char* what) {
  return to_tensor(nb::module_::import_("numpy").attr("asarray")(object), what);
}

QuantizationParameters to_parameters(nb::handle scale, nb::handle zero_point) {
  QuantizationParameters p;
  const auto scales = convert(to_small_tensor(scale, "scale"), DType::f32);
  p.scales.assign(scales.values<float>().begin(), scales.values<float>().end());
  if (!zero_point.is_none())
    for (int64_t z : to_small_tensor(zero_point, "zero_point").to_ints()) {
      if (z < INT32_MIN || z > INT32_MAX)
        throw UserError(ErrorKind::value, "zero_point", fmt::format("{} is too large", z));
      p.zero_points.push_back(static_cast<int32_t>(z));
    }
  return p;
}

using Operation = Tensor (*)(Arithmetic, const Scheme&, const Tensor&,
                             const QuantizationParameters&);

template <Operation operation>
nb::object apply(nb::handle x, const Scheme& scheme, nb::handle scale, nb::handle zero_point,
                 const std::string& arithmetic) {
  const Tensor input = to_tensor(x, "x");
  const QuantizationParameters p = to_parameters(scale, zero_point);
  const Arithmetic how = parse_arithmetic(arithmetic);
  Tensor result;
  {
    const nb::gil_scoped_release release;
    result = operation(how, scheme, input, p);
  }
  return to_numpy(result);
}

}  // namespace

void bind_numerics(nb::module_& m) {
  nb::class_<Scheme>(m, "Scheme",
                     "What the integers of a quantized tensor mean: 2 to 16 bits, signed or not, "
                     "one scale per tensor, per index of an axis, or per group along it.")
      .def(
          "__init__",
          [](Scheme* self, int bits, bool is_signed, bool narrow, bool symmetric,
             const std::string& granularity, int64_t axis, int64_t group_size,
             const std::string& scale_dtype) {
            new (self) Scheme(make_scheme(bits, is_signed, narrow, symmetric, granularity, axis,
                                          group_size, scale_dtype));
          },
          nb::kw_only(), nb::arg("bits") = 8, nb::arg("signed") = true, nb::arg("narrow") = false,
          nb::arg("symmetric") = true, nb::arg("granularity") = "tensor", nb::arg("axis") = 0,
          nb::arg("group_size") = 0, nb::arg("scale_dtype") = "f32")
      .def_ro("bits", &Scheme::bits)
      .def_ro("signed", &Scheme::is_signed)
      .def_ro("narrow", &Scheme::narrow)
      .def_ro("symmetric", &Scheme::symmetric)
      .def_prop_ro("granularity", [](const Scheme& s) { return granularity_name(s.granularity); })
      .def_ro("axis", &Scheme::axis)
      .def_ro("group_size", &Scheme::group_size)
      .def_prop_ro("scale_dtype", [](const Scheme& s) { return dtype_name(s.scale_dtype); })
      .def_prop_ro("least", &Scheme::least)
      .def_prop_ro("most", &Scheme::most)
      .def_prop_ro("levels", &Scheme::levels)
      .def("__eq__", [](const Scheme& a, const Scheme& b) { return a == b; });
  m.def(
      "quantization_parameters",
      [](nb::handle minimum, nb::handle maximum, const Scheme& scheme,
         const std::string& arithmetic) {
        const Tensor least = convert(to_small_tensor(minimum, "minimum"), DType::f32);
        const Tensor most = convert(to_small_tensor(maximum, "maximum"), DType::f32);
        if (least.dims() != most.dims())
          throw UserError(ErrorKind::value, "quantization", "minimum and maximum differ in shape");
        const auto p = parameters_from_ranges(parse_arithmetic(arithmetic), scheme,
                                              least.values<float>(), most.values<float>());
        return nb::make_tuple(to_numpy(Tensor::from(least.dims(), p.scales)),
                              to_numpy(Tensor::from(least.dims(), p.zero_points)));
      },
      nb::arg("minimum"), nb::arg("maximum"), nb::arg("scheme"), nb::arg("arithmetic") = "onnx",
      "Scales and zero points (float32, int32) whose integers cover the ranges; see "
      "src/quantize/arithmetic.h.");
  m.def("quantize_tensor", apply<quantize_tensor>, nb::arg("x"), nb::arg("scheme"),
        nb::arg("scale"), nb::arg("zero_point") = nb::none(), nb::arg("arithmetic") = "onnx",
        "q = clamp(round_half_even(x / scale) + zero_point), or as the arithmetic says: onnx, "
        "torch, nvidia. NaN counts as 0.");
  m.def("dequantize_tensor", apply<dequantize_tensor>, nb::arg("q"), nb::arg("scheme"),
        nb::arg("scale"), nb::arg("zero_point") = nb::none(), nb::arg("arithmetic") = "onnx",
        "(q - zero_point) * scale in float32; nvidia, symmetric: q / scale.");
  m.def("fake_quantize", apply<fake_quantize_tensor>, nb::arg("x"), nb::arg("scheme"),
        nb::arg("scale"), nb::arg("zero_point") = nb::none(), nb::arg("arithmetic") = "onnx",
        "dequantize_tensor(quantize_tensor(x)), in x's type.");
}

}  // namespace octavo::python
