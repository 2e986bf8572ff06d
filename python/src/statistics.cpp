#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>

#include "bindings.h"
#include "quantize/calibrators/calibrators.h"
#include "quantize/calibrators/least_norm.h"
#include "support/error.h"

namespace octavo::python {

void bind_statistics(nb::module_& m) {
  m.def(
      "least_norm_range",
      [](const AnyArray& counts, const AnyArray& cumulated, double total, double min, double max,
         int levels) {
        const Tensor c = to_tensor(counts, "counts"), sums = to_tensor(cumulated, "cumulated");
        if (c.dtype() != DType::f32 || sums.dtype() != DType::f32)
          throw UserError(ErrorKind::value, "histogram", "counts are not float32", "convert them");
        const BinRange r =
            least_norm_range(c.values<float>(), sums.values<float>(), total, min, max, levels);
        return std::pair(r.first, r.last);
      },
      "What HistogramObserver chooses: the first and the last bin of the range.");
  nb::class_<HistogramStatistics>(
      m, "Statistics",
      "What calibration remembers of a tensor: a histogram of fixed size, whatever the amount of "
      "data. Every calibrator chooses its range from it.")
      .def(nb::init<>())
      .def(
          "collect",
          [](HistogramStatistics& s, nb::handle array) {
            const Tensor x = convert(to_tensor(array, "array"), DType::f32);
            const nb::gil_scoped_release release;
            s.collect(x.values<float>());
          },
          nb::arg("array"),
          "Counts the values of one batch. UserError on NaN or infinity: nothing is counted then.")
      .def(
          "merge", [](HistogramStatistics& s, const HistogramStatistics& other) { s.merge(other); },
          nb::arg("other"), "As if this had seen the other's data too, after its own.")
      .def(
          "range",
          [](const HistogramStatistics& s, const std::string& calibrator, int levels) {
            if (s.empty())
              throw UserError(ErrorKind::value, "calibration", "nothing was collected",
                              "call collect with data first");
            if (levels < 2)
              throw UserError(ErrorKind::value, "calibration", fmt::format("{} levels", levels),
                              "give 2 or more");
            const Range r = find_calibrator(calibrator).choose(s, levels);
            return std::pair(r.min, r.max);
          },
          nb::arg("calibrator") = "mse", nb::arg("levels") = 256,
          "The range (min, max) that so many integers should cover; holds 0.")
      .def("to_bytes",
           [](const HistogramStatistics& s) {
             const std::string bytes = s.serialize();
             return nb::bytes(bytes.data(), bytes.size());
           })
      .def_static(
          "from_bytes",
          [](const nb::bytes& bytes) {
            return HistogramStatistics::deserialize({bytes.c_str(), bytes.size()}, "statistics");
          },
          nb::arg("bytes"), "FileError if they are damaged.")
      .def_prop_ro("count", &HistogramStatistics::count)
      .def_prop_ro("min", &HistogramStatistics::min)
      .def_prop_ro("max", &HistogramStatistics::max)
      .def_prop_ro("limit", &HistogramStatistics::limit)
      .def_prop_ro(
          "counts",
          [](const HistogramStatistics& s) {
            return to_numpy(Tensor::from(Dims{HistogramStatistics::bins}, s.counts()));
          },
          "int64 counts of the bins that divide [-limit, limit) evenly.")
      .def("__eq__",
           [](const HistogramStatistics& a, const HistogramStatistics& b) { return a == b; });
}

}  // namespace octavo::python
