// Octavo from C++: load a model, quantize it, compile it, run it.
//
//   octavo::Graph graph = octavo::load_model("model.onnx");
//   octavo::Program program = octavo::compile(octavo::quantize(graph, samples));
//   std::vector<octavo::Tensor> outputs = program.run({x});
//
// What a user got wrong is a UserError; std::bad_alloc and exceptions of callbacks pass through;
// std::logic_error is a bug of Octavo's. The library never prints or aborts.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

// The library's own types of the same names live in octavo; its source names v1 in full.
#ifndef OCTAVO_API_NAMESPACE
#define OCTAVO_API_NAMESPACE inline namespace v1
#endif

namespace octavo {
OCTAVO_API_NAMESPACE {
  struct Access;  // the library's way in

  enum class ErrorKind {
    value,        // a value, shape, dtype or option that does not fit
    file,         // a file that cannot be read, written, or does not parse
    unsupported,  // a valid request that Octavo does not implement
  };

  // what() says where, what, and what to do.
  class UserError : public std::runtime_error {
   public:
    UserError(ErrorKind kind, const std::string& text) : std::runtime_error(text), kind_(kind) {}
    ErrorKind kind() const { return kind_; }

   private:
    ErrorKind kind_;
  };

  enum class DType : uint8_t { f32, f64, f16, bf16, i8, u8, i16, u16, i32, u32, i64, u64, boolean };
  const char* dtype_name(DType dtype);  // "f32"

  using Dims = std::vector<int64_t>;

  // The DType of a C++ type; f16 and bf16 have none.
  template <class T>
  constexpr DType dtype_of() {
    using U = std::remove_cv_t<T>;
    if constexpr (std::is_same_v<U, float>)
      return DType::f32;
    else if constexpr (std::is_same_v<U, double>)
      return DType::f64;
    else if constexpr (std::is_same_v<U, bool>)
      return DType::boolean;
    else {
      static_assert(std::is_integral_v<U>, "no element type of Octavo's");
      constexpr DType with_sign[] = {DType::i8, DType::i16, DType::i32, DType::i64};
      constexpr DType without[] = {DType::u8, DType::u16, DType::u32, DType::u64};
      constexpr size_t i = sizeof(U) == 1 ? 0 : sizeof(U) == 2 ? 1 : sizeof(U) == 4 ? 2 : 3;
      return std::is_signed_v<U> ? with_sign[i] : without[i];
    }
  }

  // Dense, row-major, immutable; copies share memory.
  class Tensor {
   public:
    Tensor() = default;  // holds nothing; only assignment and bool are allowed
    // Copies the bytes. UserError if they are not as many as `dims` says.
    Tensor(DType dtype, Dims dims, std::span<const std::byte> bytes);
    template <class T>
    static Tensor from(Dims dims, std::span<const T> values) {
      return Tensor(dtype_of<T>(), std::move(dims), std::as_bytes(values));
    }
    template <class T>
    static Tensor from(Dims dims, const std::vector<T>& values) {
      return from(std::move(dims), std::span<const T>(values));
    }
    // Reads the caller's memory in place: aligned to the element, unchanged while it is in use;
    // `owner`, if any, is held as long as the tensor lives.
    static Tensor view(DType dtype, Dims dims, const void* data,
                       std::shared_ptr<const void> owner = {});

    explicit operator bool() const { return impl_ != nullptr; }
    DType dtype() const;
    const Dims& dims() const;
    size_t bytes() const;
    const std::byte* data() const;
    // UserError if T is not the element type.
    template <class T>
    std::span<const T> values() const {
      if (dtype_of<T>() != dtype())
        throw UserError(ErrorKind::value,
                        std::string("Tensor::values: the elements are ") + dtype_name(dtype()));
      return {reinterpret_cast<const T*>(data()), bytes() / sizeof(T)};
    }

   private:
    friend struct Access;
    struct Impl;
    std::shared_ptr<const Impl> impl_;
  };

  // A network: float or quantized.
  class Graph {
   public:
    ~Graph();
    Graph(Graph&&) noexcept;
    Graph& operator=(Graph&&) noexcept;
    std::string text() const;  // as `octavo inspect --text` prints it

   private:
    friend struct Access;
    struct Impl;
    explicit Graph(std::unique_ptr<Impl> impl);
    std::unique_ptr<Impl> impl_;
  };

  // .onnx or .octavo, by content.
  Graph load_model(const std::string& path);
  // By the name's ending; whole or not at all.
  void save_model(const Graph& graph, const std::string& path);

  struct QuantizeOptions {
    // The precision of every product that no rule names: "static" calibrates on data; "dynamic"
    // finds the activations' scales at each call; "weight_only" leaves activations in float.
    std::string mode = "static";
    std::string target = "octavo";
    std::string calibrator;  // of mode static; empty: "mse"
    std::string weights;     // empty: "gptq" in mode static, else "mse"; see docs/quantization.md
    // Of mode static: weights have one scale for each output "channel", or one for the "tensor".
    std::string weight_scales = "channel";
    int bits = 8;  // of weights, in mode weight_only: 8 or 4
    // Of mode weight_only: weights that share a scale; 0: all of an output channel for 8 bits, 32
    // for 4 (128 for target tensorrt).
    int64_t group_size = 0;
    // Of mode dynamic: a matrix product's activation has one scale ("tensor") or one for each "row"
    // of its last axis (target octavo only).
    std::string activation = "tensor";
    std::optional<bool> bias_correction;  // of mode static; none: true
    std::string smooth;  // "none", "folded" or "all"; empty: "folded" in mode static
    // Cross-layer equalisation, of mode static: "none", "folded" or "all" (across clips too);
    // empty: "none".
    std::string equalize;
    std::string preprocessing;  // of pictures: a file; empty: beside the data
    std::string rules;          // a rules file; empty: none
    std::string record;         // where to write the run record; empty: nowhere
    int threads = 0;            // 0: what affinity and cgroup quota allow
    // Called between samples and layers; what it throws ends the work.
    std::function<void(const char* phase, size_t done, size_t total)> progress;
  };
  // Post-training quantization. Each sample has the inputs in the graph's order.
  Graph quantize(const Graph& graph, const std::vector<std::vector<Tensor>>& samples,
                 const QuantizeOptions& options = {});
  // Without data: not in mode static.
  Graph quantize(const Graph& graph, const QuantizeOptions& options);
  // `data`: .npz, .npy, or a folder of either or of pictures.
  Graph quantize(const Graph& graph, const std::string& data, const QuantizeOptions& options = {});

  struct ValueInfo {
    std::string name;
    DType dtype;
    Dims dims;         // -1: bound at each call
    std::string type;  // "f32[N, 3, 224, 224]"
  };

  // A compiled network. Calls from several threads are allowed.
  class Program {
   public:
    ~Program();
    Program(Program&&) noexcept;
    Program& operator=(Program&&) noexcept;
    std::vector<ValueInfo> inputs() const;
    std::vector<ValueInfo> outputs() const;
    int threads() const;
    // UserError if count, dtypes or shapes do not fit. Inputs are read in place.
    std::vector<Tensor> run(const std::vector<Tensor>& inputs);

   private:
    friend struct Access;
    struct Impl;
    explicit Program(std::unique_ptr<Impl> impl);
    std::unique_ptr<Impl> impl_;
  };

  struct CompileOptions {
    int threads = 0;       // 0: what affinity and cgroup quota allow
    bool optimize = true;  // false: each node by itself (to look for faults)
    // false: float results below 1.2e-38 and operands of float arithmetic below that are zero
    bool keep_denormals = false;
  };
  Program compile(const Graph& graph, const CompileOptions& options = {});

}  // namespace v1
}  // namespace octavo
