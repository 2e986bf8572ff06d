#include "quantize/calibrators/magnitudes.h"

#include <nanobind/stl/string.h>

#include "bindings.h"

namespace octavo::python {

void bind_magnitudes(nb::module_& m) {
  using Histogram = MagnitudeHistogram;
  const auto to_bytes = [](const Histogram& h) {
    const std::string bytes = h.serialize();
    return nb::bytes(bytes.data(), bytes.size());
  };
  const auto from_bytes = [](const nb::bytes& bytes) {
    return Histogram::deserialize({bytes.c_str(), bytes.size()}, "histogram");
  };
  nb::class_<Histogram>(m, "MagnitudeHistogram",
                        "Histogram of magnitudes with pytorch-quantization's bins and choices, of "
                        "bounded size; octavo.compat stands on it.")
      .def(nb::init<int>(), nb::arg("bins") = 2048)
      .def(
          "collect",
          [](Histogram& h, nb::handle array, bool skip_zeros, double top) {
            const Tensor x = convert(to_tensor(array, "array"), DType::f32);
            const nb::gil_scoped_release release;
            h.collect(x.values<float>(), skip_zeros, top);
          },
          nb::arg("array"), nb::arg("skip_zeros") = false, nb::arg("top") = 1.0,
          "Counts the magnitudes of one batch; bins below the largest `top` of them may be filled "
          "in from a sample. UserError on NaN or infinity: nothing is counted then.")
      .def_prop_ro("exact_from", &Histogram::exact_from)
      .def_prop_ro("total", &Histogram::total)
      .def_prop_ro("counts",
                   [](const Histogram& h) {
                     return to_numpy(
                         Tensor::from(Dims{static_cast<int64_t>(h.counts().size())}, h.counts()));
                   })
      .def_prop_ro("edges",
                   [](const Histogram& h) {
                     const std::vector<float> e = h.edges();
                     return to_numpy(Tensor::from(Dims{static_cast<int64_t>(e.size())}, e));
                   })
      .def("entropy_amax", &entropy_amax, nb::arg("bits") = 8, nb::arg("unsigned") = false,
           nb::arg("stride") = 1, nb::arg("start_bin") = 128,
           nb::call_guard<nb::gil_scoped_release>(),
           "The edge at the last of the least Kullback-Leibler divergences.")
      .def("mse_amax", &mse_amax, nb::arg("bits") = 8, nb::arg("unsigned") = false,
           nb::arg("stride") = 1, nb::arg("start_bin") = 128,
           nb::call_guard<nb::gil_scoped_release>(),
           "The bin's centre at the first of the least mean squared errors.")
      .def("mse_amax_e4m3", &mse_amax_e4m3, nb::arg("stride") = 1, nb::arg("start_bin") = 128,
           nb::call_guard<nb::gil_scoped_release>(), "mse_amax for FP8 E4M3.")
      .def("percentile_amax", &percentile_amax, nb::arg("percent") = 99.99,
           "The lower edge of the bin at which the share counted so far reaches percent / 100.")
      .def("to_bytes", to_bytes)
      .def_static("from_bytes", from_bytes, nb::arg("bytes"), "FileError if they are damaged.")
      .def("__getstate__", to_bytes)
      .def("__setstate__",
           [from_bytes](Histogram& h, const nb::bytes& bytes) {
             new (&h) Histogram(from_bytes(bytes));
           })
      .def("__eq__", [](const Histogram& a, const Histogram& b) { return a == b; });
}

}  // namespace octavo::python
