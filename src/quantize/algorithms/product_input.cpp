#include "quantize/algorithms/product_input.h"

#include <algorithm>

#include "graph/op_def.h"
#include "ops/window.h"
#include "support/error.h"

namespace octavo {
namespace {

size_t elements(const Ints& dims) {
  size_t n = 1;
  for (int64_t d : dims) n *= static_cast<size_t>(d);
  return n;
}

// The spatial dims of a conv's output for the input dims [N, C, spatial...].
Ints output_dims(const Node& node, const ops::Window& window, const Dims& x) {
  Ints out;
  for (size_t i = 0; i < window.rank(); ++i)
    out.push_back(ops::window_output(node, window, i, x[i + 2]).value());
  return out;
}

// One axis after the other, from the last: [outer, dim, inner] to [outer, kernel, inner], element t
// of the new axis being the sum over the positions that tap t of the kernel meets.
template <class T>
std::vector<int64_t> sum_axis(const T* x, int32_t zero_point, size_t outer, int64_t dim,
                              size_t inner, int64_t kernel, int64_t out, int64_t stride,
                              int64_t dilation, int64_t pad) {
  std::vector<int64_t> sums(outer * static_cast<size_t>(kernel) * inner, 0);
  for (size_t o = 0; o < outer; ++o)
    for (int64_t t = 0; t < kernel; ++t) {
      // p * stride + shift inside [0, dim)
      const int64_t shift = t * dilation - pad;
      const int64_t first = shift >= 0 ? 0 : (-shift + stride - 1) / stride;
      const int64_t last = shift >= dim ? -1 : std::min(out - 1, (dim - 1 - shift) / stride);
      const T* row = x + o * static_cast<size_t>(dim) * inner;
      int64_t* to = &sums[(o * static_cast<size_t>(kernel) + static_cast<size_t>(t)) * inner];
      if (inner == 1 && stride == 1 && sizeof(T) == 1) {
        int32_t sum = 0;
        for (int64_t p = first + shift; p <= last + shift; ++p) sum += row[p];
        to[0] = sum;
      } else {
        for (int64_t p = first; p <= last; ++p) {
          const T* from = row + static_cast<size_t>(p * stride + shift) * inner;
          for (size_t i = 0; i < inner; ++i) to[i] += from[i];
        }
      }
      const int64_t count = std::max<int64_t>(0, last - first + 1);
      for (size_t i = 0; i < inner; ++i) to[i] -= count * zero_point;
    }
  return sums;
}

template <class T>
InputSums sums_of(const ProductShape& product, const Tensor& x, int32_t zero_point) {
  InputSums result{std::vector<int64_t>(product.groups * product.length, 0), 0};
  if (x.size() == 0) return result;
  const T* values = x.values<T>().data();
  if (product.kernel.empty()) {
    const auto rows = static_cast<size_t>(x.size()) / product.length;
    for (size_t r = 0; r < rows; ++r)
      for (size_t k = 0; k < product.length; ++k)
        result.sums[k] += values[r * product.length + k] - zero_point;
    result.positions = static_cast<int64_t>(rows);
    return result;
  }
  const ops::Window window = ops::window_of(*product.node, product.kernel);
  const Dims& dims = x.dims();
  const Ints out = output_dims(*product.node, window, dims);
  const size_t rank = window.rank();
  size_t outer = static_cast<size_t>(x.size()), inner = 1;
  std::vector<int64_t> sums;
  for (size_t i = rank; i-- > 0;) {
    outer /= static_cast<size_t>(dims[i + 2]);
    const auto axis = [&](const auto* from, int32_t zero) {
      return sum_axis(from, zero, outer, dims[i + 2], inner, window.kernel[i], out[i],
                      window.strides[i], window.dilations[i], window.pads[i]);
    };
    std::vector<int64_t> next = i + 1 == rank ? axis(values, zero_point) : axis(sums.data(), 0);
    sums = std::move(next);
    inner *= static_cast<size_t>(window.kernel[i]);
  }
  // [N, C, taps]: over the batch.
  for (size_t i = 0; i < sums.size(); ++i) result.sums[i % result.sums.size()] += sums[i];
  result.positions = dims[0] * static_cast<int64_t>(elements(out));
  return result;
}

// The same numbers for the same arguments, on every machine.
uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

}  // namespace

bool has_product_shape(const PlacedWeights& placed) {
  const Node& node = *placed.node;
  if (node.is("conv")) return placed.axis == 0;
  if (node.is("gemm"))
    return node.real("alpha") == 1 && node.real("beta") == 1 && node.integer("trans_a") == 0;
  return node.is("matmul") && node.input(1)->shape().rank() == 2 &&
         node.input(0)->shape().rank() >= 2;
}

ProductShape product_shape(const PlacedWeights& placed) {
  const Node& node = *placed.node;
  const Dims& w = node.input(1)->constant().dims();
  const auto channels = static_cast<size_t>(w[static_cast<size_t>(placed.axis)]);
  ProductShape p{&node, channels, 1, channels ? elements(w) / channels : 0, {}};
  if (node.is("conv")) {
    p.groups = static_cast<size_t>(node.integer("group"));
    p.kernel = Ints(w.begin() + 2, w.end());
  }
  return p;
}

void InputSums::add(const InputSums& other) {
  sums.resize(other.sums.size(), 0);
  for (size_t i = 0; i < sums.size(); ++i) sums[i] += other.sums[i];
  positions += other.positions;
}

InputSums input_sums(const ProductShape& product, const Tensor& x, int32_t zero_point) {
  return x.dtype() == DType::u8 ? sums_of<uint8_t>(product, x, zero_point)
                                : sums_of<int8_t>(product, x, zero_point);
}

InputSamples::InputSamples(const ProductShape& product, const std::vector<Tensor>& inputs,
                           int32_t zero_point, size_t per_input, uint64_t seed)
    : product_(product), inputs_(inputs), zero_point_(zero_point), taps_(elements(product.kernel)) {
  std::vector<uint64_t> positions;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const Dims& dims = inputs[i].dims();
    size_t available = static_cast<size_t>(inputs[i].size()) / std::max<size_t>(1, product.length);
    size_t step = 1;
    if (!product.kernel.empty()) {
      const ops::Window window = ops::window_of(*product.node, product.kernel);
      available = static_cast<size_t>(dims[0]) * elements(output_dims(*product.node, window, dims));
      step = elements(Ints(dims.begin() + 2, dims.end()));
    }
    channel_step_.push_back(step);
    const size_t wanted = std::min(per_input, available);
    for (size_t n = 0; n < wanted; ++n) {
      const size_t begin = n * available / wanted, end = (n + 1) * available / wanted;
      positions.push_back(begin + mix(seed ^ mix(i * per_input + n)) % (end - begin));
      source_.push_back(static_cast<uint32_t>(i));
    }
  }
  offsets_.resize(taps_ * source_.size());
  for (size_t n = 0; n < source_.size(); ++n) {
    if (product.kernel.empty()) {
      offsets_[n] = static_cast<int64_t>(positions[n] * product.length);
      continue;
    }
    const Dims& dims = inputs[source_[n]].dims();
    const ops::Window window = ops::window_of(*product.node, product.kernel);
    const Ints out = output_dims(*product.node, window, dims);
    const size_t plane = elements(out);
    const auto image = static_cast<int64_t>(positions[n] / plane) * dims[1] *
                       static_cast<int64_t>(channel_step_[source_[n]]);
    for (size_t t = 0; t < taps_; ++t) {
      int64_t offset = 0, scale = 1, p = static_cast<int64_t>(positions[n] % plane),
              k = static_cast<int64_t>(t);
      bool inside = true;
      for (size_t i = window.rank(); i-- > 0;) {
        const int64_t at = p % out[i] * window.strides[i] +
                           k % window.kernel[i] * window.dilations[i] - window.pads[i];
        inside = inside && at >= 0 && at < dims[i + 2];
        offset += at * scale;
        scale *= dims[i + 2], p /= out[i], k /= window.kernel[i];
      }
      offsets_[t * source_.size() + n] = inside ? image + offset : -1;
    }
  }
}

ShortMatrix InputSamples::gather(size_t group, size_t first, size_t count, ThreadPool& pool) const {
  ShortMatrix x(product_.length, count);
  const size_t channels = product_.length / taps_;
  auto task = [&](int64_t k, int) {
    const size_t c = group * channels + static_cast<size_t>(k) / taps_,
                 t = static_cast<size_t>(k) % taps_;
    int16_t* row = x.row(static_cast<size_t>(k));
    for (size_t n = 0; n < count; ++n) {
      const int64_t offset = offsets_[t * rows() + first + n];
      if (offset < 0) continue;
      const size_t source = source_[first + n];
      const size_t at = static_cast<size_t>(offset) + c * channel_step_[source];
      const Tensor& input = inputs_[source];
      const int32_t q =
          input.dtype() == DType::u8
              ? static_cast<int32_t>(reinterpret_cast<const uint8_t*>(input.data())[at])
              : static_cast<int32_t>(reinterpret_cast<const int8_t*>(input.data())[at]);
      row[n] = static_cast<int16_t>(q - zero_point_);
    }
  };
  pool.run(static_cast<int64_t>(product_.length), task);
  return x;
}

std::vector<float> InputSamples::gather_floats() const {
  OCTAVO_CHECK(product_.groups == 1);
  std::vector<float> result(rows() * product_.length, 0.0f);
  for (size_t n = 0; n < rows(); ++n) {
    const float* input = inputs_[source_[n]].values<float>().data();
    for (size_t k = 0; k < product_.length; ++k) {
      const int64_t offset = offsets_[k % taps_ * rows() + n];
      if (offset < 0) continue;
      const size_t step = channel_step_[source_[n]];
      result[n * product_.length + k] = input[static_cast<size_t>(offset) + k / taps_ * step];
    }
  }
  return result;
}

}  // namespace octavo
