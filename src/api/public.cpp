// include/octavo over the library's own types. Here v1 is no inline namespace, so that
// octavo::Tensor is the library's and v1::Tensor the user's.
#define OCTAVO_API_NAMESPACE namespace v1
#include <cstring>

#include "api/octavo.h"
#include "octavo/octavo.h"

namespace octavo::v1 {

static_assert(static_cast<int>(DType::boolean) == static_cast<int>(octavo::DType::boolean));
static_assert(static_cast<int>(DType::u16) == static_cast<int>(octavo::DType::u16));
static_assert(static_cast<int>(DType::boolean) + 1 == dtype_count);
static_assert(static_cast<int>(ErrorKind::unsupported) ==
              static_cast<int>(octavo::ErrorKind::unsupported));

struct Tensor::Impl {
  octavo::Tensor tensor;
};
struct Graph::Impl {
  octavo::Graph graph;
};
struct Program::Impl {
  octavo::Program program;
};

struct Access {
  static Tensor wrap(octavo::Tensor tensor) {
    Tensor wrapped;
    wrapped.impl_ = std::make_shared<const Tensor::Impl>(Tensor::Impl{std::move(tensor)});
    return wrapped;
  }
  static Graph wrap(octavo::Graph graph) {
    return Graph(std::make_unique<Graph::Impl>(Graph::Impl{std::move(graph)}));
  }
  static Program wrap(octavo::Program program) {
    return Program(std::make_unique<Program::Impl>(Program::Impl{std::move(program)}));
  }
  static const octavo::Tensor& inside(const Tensor& tensor) {
    if (!tensor.impl_) throw UserError(ErrorKind::value, "Tensor: it holds nothing");
    return tensor.impl_->tensor;
  }
  static const octavo::Graph& inside(const Graph& graph) {
    if (!graph.impl_) throw UserError(ErrorKind::value, "Graph: it was moved from");
    return graph.impl_->graph;
  }
  static octavo::Program& inside(const Program& program) {
    if (!program.impl_) throw UserError(ErrorKind::value, "Program: it was moved from");
    return program.impl_->program;
  }
};

namespace {

// The library's UserError is not the user's.
template <class F>
auto translated(F&& body) {
  try {
    return std::forward<F>(body)();
  } catch (const octavo::UserError& e) {
    throw UserError(static_cast<ErrorKind>(e.kind()), e.what());
  }
}

std::vector<octavo::Tensor> inside(const std::vector<Tensor>& tensors) {
  std::vector<octavo::Tensor> list;
  list.reserve(tensors.size());
  for (const Tensor& tensor : tensors) list.push_back(Access::inside(tensor));
  return list;
}

size_t byte_count(DType dtype, const Dims& dims) {
  for (const int64_t dim : dims)
    if (dim < 0) throw UserError(ErrorKind::value, fmt::format("Tensor: {} is no dimension", dim));
  return static_cast<size_t>(element_count(dims)) * dtype_size(static_cast<octavo::DType>(dtype));
}

void check_threads(int threads) {
  if (threads < 0 || threads > 1024)
    throw UserError(ErrorKind::value, fmt::format("threads: {} is not in 0 to 1024", threads));
}

Graph quantize_with(const octavo::Graph& graph, const Dataset* data,
                    const QuantizeOptions& options) {
  check_threads(options.threads);
  if (!options.record.empty()) check_writable(options.record);
  QuantizeRequest request;
  request.calibrator = options.calibrator;
  request.options.target = options.target;
  request.bias_correction = options.bias_correction;
  request.smooth = options.smooth;
  request.equalize = options.equalize;
  request.options.weight_scales = options.weight_scales;
  request.options.mode = parse_mode(options.mode);
  request.options.weights = options.weights;
  request.options.weight_bits = options.bits;
  request.options.group_size = options.group_size;
  request.options.activation = options.activation;
  request.options.threads = options.threads;
  if (!options.rules.empty()) request.options.rules = load_rules(options.rules);
  QuantizeResult result =
      octavo::quantize(graph, data, request, "octavo::quantize", options.progress);
  if (!options.record.empty()) {
    const std::string text =
        result.record.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    write_file_atomically(options.record, [&](std::ostream& out) { out << text << '\n'; });
  }
  return Access::wrap(std::move(result.graph));
}

std::vector<ValueInfo> describe(const std::vector<std::string>& names,
                                const std::vector<TensorType>& types) {
  std::vector<ValueInfo> list;
  for (size_t i = 0; i < names.size(); ++i) {
    Dims dims;
    for (const Dim& dim : types[i].shape) dims.push_back(dim.is_static() ? dim.value() : -1);
    list.push_back({names[i], static_cast<DType>(types[i].dtype), dims, types[i].str()});
  }
  return list;
}

}  // namespace

const char* dtype_name(DType dtype) {
  return octavo::dtype_name(static_cast<octavo::DType>(dtype));
}

Tensor::Tensor(DType dtype, Dims dims, std::span<const std::byte> bytes) {
  *this = translated([&] {
    const size_t size = byte_count(dtype, dims);
    if (size != bytes.size())
      throw UserError(ErrorKind::value, fmt::format("Tensor: {} takes {} bytes, {} were given",
                                                    dims_str(dims), size, bytes.size()));
    octavo::Tensor tensor(static_cast<octavo::DType>(dtype), std::move(dims));
    if (size) std::memcpy(tensor.mutable_data(), bytes.data(), size);
    return Access::wrap(std::move(tensor));
  });
}

Tensor Tensor::view(DType dtype, Dims dims, const void* data, std::shared_ptr<const void> owner) {
  return translated([&] {
    const size_t size = byte_count(dtype, dims);
    const size_t element = dtype_size(static_cast<octavo::DType>(dtype));
    if ((size && !data) || reinterpret_cast<uintptr_t>(data) % element != 0)
      throw UserError(ErrorKind::value, "Tensor::view: null or not aligned to the element");
    return Access::wrap(octavo::Tensor(static_cast<octavo::DType>(dtype), std::move(dims),
                                       Buffer::view(data, size, std::move(owner))));
  });
}

DType Tensor::dtype() const { return static_cast<DType>(Access::inside(*this).dtype()); }
const Dims& Tensor::dims() const { return Access::inside(*this).dims(); }
size_t Tensor::bytes() const { return Access::inside(*this).bytes(); }
const std::byte* Tensor::data() const { return Access::inside(*this).data(); }

Graph::Graph(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Graph::~Graph() = default;
Graph::Graph(Graph&&) noexcept = default;
Graph& Graph::operator=(Graph&&) noexcept = default;
std::string Graph::text() const {
  return translated([&] { return print_graph(Access::inside(*this)); });
}

Graph load_model(const std::string& path) {
  return translated([&] { return Access::wrap(octavo::load_model(path)); });
}

void save_model(const Graph& graph, const std::string& path) {
  translated([&] { octavo::save_model(Access::inside(graph), path); });
}

Graph quantize(const Graph& graph, const std::vector<std::vector<Tensor>>& samples,
               const QuantizeOptions& options) {
  return translated([&] {
    std::vector<std::vector<octavo::Tensor>> list;
    list.reserve(samples.size());
    for (const auto& sample : samples) list.push_back(inside(sample));
    const octavo::Graph& g = Access::inside(graph);
    const auto data = memory_dataset(std::move(list), signature_of(g));
    return quantize_with(g, data.get(), options);
  });
}

Graph quantize(const Graph& graph, const QuantizeOptions& options) {
  return translated([&] { return quantize_with(Access::inside(graph), nullptr, options); });
}

Graph quantize(const Graph& graph, const std::string& data, const QuantizeOptions& options) {
  return translated([&] {
    const octavo::Graph& g = Access::inside(graph);
    const auto opened = open_dataset(data, signature_of(g), options.preprocessing);
    return quantize_with(g, opened.get(), options);
  });
}

Program::Program(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Program::~Program() = default;
Program::Program(Program&&) noexcept = default;
Program& Program::operator=(Program&&) noexcept = default;

std::vector<ValueInfo> Program::inputs() const {
  const auto& signature = Access::inside(*this).signature();
  return describe(signature.input_names, signature.input_types);
}

std::vector<ValueInfo> Program::outputs() const {
  const auto& signature = Access::inside(*this).signature();
  return describe(signature.output_names, signature.output_types);
}

int Program::threads() const { return Access::inside(*this).threads(); }

std::vector<Tensor> Program::run(const std::vector<Tensor>& inputs) {
  return translated([&] {
    std::vector<Tensor> outputs;
    for (octavo::Tensor& output : Access::inside(*this).run(inside(inputs)))
      outputs.push_back(Access::wrap(std::move(output)));
    return outputs;
  });
}

Program compile(const Graph& graph, const CompileOptions& options) {
  return translated([&] {
    check_threads(options.threads);
    return Access::wrap(
        octavo::compile(Access::inside(graph).clone(), {.threads = options.threads,
                                                        .optimize = options.optimize,
                                                        .keep_denormals = options.keep_denormals}));
  });
}

}  // namespace octavo::v1
