// Methods of tensors that speak of the CPU's types.
#include <ATen/EmptyTensor.h>
#include <torch/csrc/Dtype.h>
#include <torch/csrc/Size.h>
#include <torch/csrc/autograd/python_variable.h>

#include "tracer.h"

namespace octavo::capture {

// Tensor.type() and Tensor.new(): meta tensors have not the CPU's types.
V Tracer::legacy_method(const V& self, PyObject* name, const Call& call) {
  const auto& tensor = static_cast<Tensor&>(*self);
  const bool is_type = utf8(name) == "type";
  const auto refuse = [&] { give_up(Reason::side_effect, "Tensor." + utf8(name)); };
  if (!tensor.device.is_cpu() || !call.keywords.empty()) refuse();
  const at::ScalarType own = tensor.meta.scalar_type();
  Call with_self{{self}, {}};
  if (is_type) {
    const Ref stand_in = Ref::checked(THPVariable_Wrap(at::empty({0}, own)));
    const Ref method = octavo::capture::attribute(stand_in.get(), "type");
    if (call.args.empty()) return constant(Ref::checked(PyObject_CallNoArgs(method.get())));
    const Ref wanted = python_constant(call.args[0]);
    if (!wanted || call.args.size() != 1 ||
        !(PyUnicode_Check(wanted.get()) || THPDtype_Check(wanted.get())))
      refuse();
    const Ref made = Ref::steal(PyObject_CallOneArg(method.get(), wanted.get()));
    if (!made) raise_python_error();
    const at::Tensor& result = THPVariable_Unpack(made.get());
    if (!result.device().is_cpu() || result.layout() != at::kStrided) refuse();
    with_self.args.push_back(call.args[0]);
    return record(
        Node::Op::call_method, Ref::borrow(name), with_self,
        [&](PyObject* args, PyObject*) {
          return Ref::checked(THPVariable_Wrap(
              THPVariable_Unpack(PyTuple_GET_ITEM(args, 0)).to(result.scalar_type())));
        },
        nullptr);
  }
  // Of a tuple or a list, new() makes a tensor of these values.
  std::vector<V> given = call.args;
  if (given.size() == 1 && real(given[0])->kind == Kind::sequence) {
    if (type_of(given[0]) != &THPSizeType) refuse();
    given = items_of(given[0]);
  }
  std::vector<int64_t> sizes;
  for (const V& one : given) {
    if (real(one)->kind != Kind::constant || !PyLong_Check(real(one)->object.get())) refuse();
    sizes.push_back(index(one));
  }
  for (const int64_t size : sizes) with_self.args.push_back(integer(size));
  return record(
      Node::Op::call_method, Ref::borrow(name), with_self,
      [&](PyObject*, PyObject*) {
        return Ref::checked(THPVariable_Wrap(at::detail::empty_meta(sizes, own)));
      },
      nullptr);
}

}  // namespace octavo::capture
