#include <nanobind/stl/string.h>

#include <cstring>

#include "bindings.h"
#include "support/error.h"

namespace octavo::python {
namespace {

struct Row {
  DType dtype;
  nb::dlpack::dtype_code code;
  uint8_t bits;
};
constexpr Row rows[] = {{DType::f32, nb::dlpack::dtype_code::Float, 32},
                        {DType::f64, nb::dlpack::dtype_code::Float, 64},
                        {DType::f16, nb::dlpack::dtype_code::Float, 16},
                        {DType::bf16, nb::dlpack::dtype_code::Bfloat, 16},
                        {DType::i8, nb::dlpack::dtype_code::Int, 8},
                        {DType::u8, nb::dlpack::dtype_code::UInt, 8},
                        {DType::i16, nb::dlpack::dtype_code::Int, 16},
                        {DType::u16, nb::dlpack::dtype_code::UInt, 16},
                        {DType::i32, nb::dlpack::dtype_code::Int, 32},
                        {DType::u32, nb::dlpack::dtype_code::UInt, 32},
                        {DType::i64, nb::dlpack::dtype_code::Int, 64},
                        {DType::u64, nb::dlpack::dtype_code::UInt, 64},
                        {DType::boolean, nb::dlpack::dtype_code::Bool, 8}};

DType dtype_of(const nb::dlpack::dtype& dtype, const char* what) {
  for (const Row& row : rows)
    if (static_cast<uint8_t>(row.code) == dtype.code && row.bits == dtype.bits && dtype.lanes == 1)
      return row.dtype;
  throw UserError(ErrorKind::value, what, "the array's element type is not supported",
                  "use float32, float64, float16, bfloat16, bool or an integer type");
}

}  // namespace

Tensor to_tensor(const AnyArray& array, const char* what) {
  const DType dtype = dtype_of(array.dtype(), what);
  Dims dims;
  bool dense = true;
  int64_t step = 1;
  for (size_t i = array.ndim(); i-- > 0;) {
    dims.insert(dims.begin(), static_cast<int64_t>(array.shape(i)));
    dense = dense && (array.shape(i) <= 1 || array.stride(i) == step);
    step *= static_cast<int64_t>(array.shape(i));
  }
  const bool aligned = reinterpret_cast<uintptr_t>(array.data()) % dtype_size(dtype) == 0;
  if (dense && aligned) {
    auto owner = std::make_shared<AnyArray>(array);
    return Tensor(dtype, dims, Buffer::view(array.data(), array.nbytes(), {owner, owner.get()}));
  }
  Tensor copy(dtype, dims);
  const size_t size = dtype_size(dtype);
  const auto* from = static_cast<const std::byte*>(array.data());
  for (int64_t i = 0; i < copy.size(); ++i) {
    int64_t rest = i, at = 0;
    for (size_t d = dims.size(); d-- > 0; rest /= dims[d]) at += rest % dims[d] * array.stride(d);
    std::memcpy(copy.mutable_data() + static_cast<size_t>(i) * size,
                from + at * static_cast<int64_t>(size), size);
  }
  return copy;
}

namespace {

std::string dtype_name_of(nb::handle array) {
  const nb::object dtype = array.attr("dtype");
  return nb::str(nb::handle(dtype)).c_str();
}

// The name of a NumPy array's dtype if it is not one of NumPy's own; else empty.
std::string foreign_dtype_of(nb::handle object) {
  if (!nb::hasattr(object, "dtype") || !nb::hasattr(object, "strides")) return {};
  int kind = 0;
  const nb::object dtype = object.attr("dtype");
  if (nb::try_cast(nb::getattr(dtype, "isbuiltin", nb::int_(0)), kind) && kind == 1) return {};
  return dtype_name_of(object);
}

}  // namespace

Tensor to_tensor(nb::handle object, const char* what) {
  // NumPy has no such types of its own. ml_dtypes' bfloat16, which ONNX uses, crosses over as its
  // 16 bits, integers of less than a byte as bytes.
  const std::string dtype = foreign_dtype_of(object);
  if (dtype == "int4" || dtype == "int2" || dtype == "uint4" || dtype == "uint2") {
    const nb::object bytes = object.attr("astype")(dtype[0] == 'i' ? "int8" : "uint8");
    return to_tensor(nb::handle(bytes), what);
  }
  if (dtype == "bfloat16") {
    const nb::object view = object.attr("view")("uint16");
    const Tensor bits = to_tensor(nb::handle(view), what);
    return Tensor(DType::bf16, bits.dims(), bits.buffer());
  }
  AnyArray array;
  if (nb::try_cast(object, array)) return to_tensor(array, what);
  const auto type = nb::cast<std::string>(nb::str(object.type().attr("__name__")));
  const nb::module_ numpy = nb::module_::import_("numpy");
  if (nb::isinstance(object, numpy.attr("ndarray")) ||
      nb::isinstance(object, numpy.attr("generic"))) {
    if (nb::cast<std::string>(object.attr("dtype").attr("kind")).find_first_of("biuf") !=
        std::string::npos) {
      // A scalar, the other byte order, or a stride that is no whole number of elements.
      const nb::object native =
          numpy.attr("array")(object, object.attr("dtype").attr("newbyteorder")("="));
      if (nb::try_cast(native, array)) return to_tensor(array, what);
    }
    throw UserError(ErrorKind::value, what,
                    fmt::format("arrays of dtype {} are not supported", dtype_name_of(object)),
                    "use float32, float64, float16, bool or an integer type");
  }
  std::string reason;
  if (nb::hasattr(object, "__dlpack__")) {
    try {
      object.attr("__dlpack__")();
      reason = "; it is not on the CPU or its element type is not known";
    } catch (const nb::python_error& e) {
      reason =
          std::string("; its DLPack export says: ") + nb::cast<std::string>(nb::str(e.value()));
    }
  }
  throw nb::type_error(
      fmt::format("{}: expected an array on the CPU (NumPy, DLPack), got {}{}", what, type, reason)
          .c_str());
}

nb::object to_numpy(const Tensor& tensor) {
  if (tensor.dtype() == DType::bf16) {
    const nb::object bits = to_numpy(Tensor(DType::u16, tensor.dims(), tensor.buffer()));
    return bits.attr("view")(nb::module_::import_("ml_dtypes").attr("bfloat16"));
  }
  const Row* row = rows;
  while (row->dtype != tensor.dtype()) ++row;
  std::vector<size_t> shape(tensor.dims().begin(), tensor.dims().end());
  auto* keep = new std::shared_ptr<Buffer>(tensor.buffer());
  const nb::capsule owner(
      keep, [](void* p) noexcept { delete static_cast<std::shared_ptr<Buffer>*>(p); });
  const nb::dlpack::dtype dtype{static_cast<uint8_t>(row->code), row->bits, 1};
  return nb::cast(nb::ndarray<nb::numpy>(const_cast<std::byte*>(tensor.data()), shape.size(),
                                         shape.data(), owner, nullptr, dtype));
}

}  // namespace octavo::python
