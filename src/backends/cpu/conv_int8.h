// What the makers of INT8 convolution kernels share: checks, packing, the epilogue's constants.
#pragma once
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "backends/cpu/conv.h"
#include "backends/cpu/int8_data.h"
#include "support/shared_buffers.h"

namespace octavo::cpu {

// Memory aligned for any vector load.
template <class T>
class AlignedArray {
 public:
  AlignedArray() = default;
  explicit AlignedArray(int64_t size) : size_(size) {
    const size_t bytes = (static_cast<size_t>(size) * sizeof(T) + 127) / 64 * 64;
    buffer_ = Buffer::allocate(bytes);
    std::memset(buffer_->mutable_data(), 0, bytes);
    data_ = reinterpret_cast<T*>(buffer_->mutable_data());
  }
  // Written for the last time: shares the memory of an equal one.
  void hold_once() {
    buffer_ = held_once(std::move(buffer_));
    data_ = reinterpret_cast<T*>(buffer_->mutable_data());
  }
  T* data() { return data_; }
  const T* data() const { return data_; }
  T& operator[](int64_t i) { return data_[i]; }
  const T& operator[](int64_t i) const { return data_[i]; }
  size_t bytes() const { return static_cast<size_t>(size_) * sizeof(T); }

 private:
  std::shared_ptr<Buffer> buffer_;
  T* data_ = nullptr;
  int64_t size_ = 0;
};

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t element_size(Element e) { return e == Element::f32 ? 4 : 1; }

// What no INT8 kernel takes: false, with the reason in `why`.
bool accepts_int8(const ConvProblem& problem, std::string& why);

// What u8 activations are xored with to become what the kernels see, and the zero point then.
uint8_t x_flip(const ConvProblem& problem);
int32_t flipped_zero(const ConvProblem& problem);

Int8Epilogue make_epilogue(const ConvProblem& problem);
// The clamp, zero point and type of the output alone.
Int8Epilogue make_output_epilogue(const ConvProblem& problem);
int32_t weight_sum(const ConvProblem& problem, int64_t channel);  // wrap-around
// bias - flipped zero point * sum of the channel's weights, wrap-around.
int32_t packed_bias(const ConvProblem& problem, int64_t channel);

// The taps of a pixel that lie side by side in memory: groups of four bytes.
int64_t segment_k4(const ConvShape& shape);
std::unique_ptr<ConvKernel> make_gemm_int8(const ConvProblem& problem, Isa isa, const char* name,
                                           GemmInt8Function function);
std::unique_ptr<ConvKernel> make_depthwise_int8(const ConvProblem& problem, Isa isa,
                                                const char* name, DepthwiseInt8Function function,
                                                std::string& why);
// Whether this machine's tiles pass a product; tried once.
bool int8_tiles_work();
// The AMX kernel with its tiles in plain code, for tests; needs VNNI.
std::unique_ptr<ConvKernel> make_emulated_amx_int8(const ConvProblem& problem, std::string& why);

}  // namespace octavo::cpu
