// The kernels that are written once over a vector type and compiled for three instruction sets.
#pragma once
#include "backends/cpu/affine.h"
#include "backends/cpu/cast_half.h"
#include "backends/cpu/elementwise.h"
#include "backends/cpu/histogram.h"
#include "backends/cpu/layer_norm.h"
#include "backends/cpu/pool.h"
#include "backends/cpu/quantized.h"
#include "backends/cpu/recurrent_step.h"
#include "backends/cpu/reduce.h"

namespace octavo::cpu {

struct VectorKernels {
  void (*max_pool)(const MaxPool&, ThreadPool&);
  void (*average_pool)(const AveragePool&, ThreadPool&);
  void (*binary)(const Binary&, ThreadPool&);
  void (*unary)(const Unary&, ThreadPool&);
  void (*quantized_add)(const QuantizedBinary&, ThreadPool&);
  void (*quantized_mul)(const QuantizedBinary&, ThreadPool&);
  void (*quantize)(const Quantize&, ThreadPool&);
  void (*dequantize)(const Dequantize&, ThreadPool&);
  void (*dynamic_quantize)(const DynamicQuantize&, ThreadPool&);
  void (*quantize_to_nhwc)(const QuantizeToNhwc&, ThreadPool&);
  void (*reduce)(const Reduce&, ThreadPool&);
  void (*softmax)(const Softmax&, ThreadPool&);
  AffineKernels<float> affine;
  AffineKernels<double> affine_f64;
  HistogramKernels histogram;
  void (*layer_norm)(const LayerNorm&, ThreadPool&);
  void (*cast_half)(const CastHalf&, ThreadPool&);
  void (*recurrent_step)(const RecurrentStep&, ThreadPool&);
};

const VectorKernels& vector_kernels_portable();
const VectorKernels& vector_kernels_avx2();
const VectorKernels& vector_kernels_avx512();
// By best_isa().
const VectorKernels& best_vector_kernels();

}  // namespace octavo::cpu
