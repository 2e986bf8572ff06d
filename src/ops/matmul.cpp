// gemm and matmul.
#include "ops/integer_product.h"
#include "ops/op.h"

namespace octavo::ops {
namespace {

// ---- gemm

std::vector<TensorType> infer_gemm(const Node& node) {
  const TensorType &x = number_input(node, 0), &w = number_input(node, 1);
  require(node, x.shape.rank() == 2 && w.shape.rank() == 2 && x.dtype == w.dtype,
          "x and w must be matrices of one type");
  const bool ta = node.integer("trans_a") != 0, tb = node.integer("trans_b") != 0;
  const Dim &m = x.shape[ta], &k = x.shape[!ta], &k2 = w.shape[tb], &n = w.shape[!tb];
  if (k.is_static() && k2.is_static() && !(k == k2))
    fail(node, fmt::format("inner dimensions {} and {} differ", k.str(), k2.str()));
  const Shape y{m, n};
  if (const Value* c = node.input(2)) {
    const Shape both = broadcast_shapes(c->shape(), y, node.where());
    require(node, both.rank() == 2, "the addend must broadcast to the product");
  }
  return {{x.dtype, y}};
}

// What products are summed up in: integers wrap around as NumPy's do.
template <class T>
using Sum = std::conditional_t<is_float_element<T>, double, uint64_t>;

template <class T>
std::vector<Sum<T>> wide(const Tensor& tensor) {
  std::vector<Sum<T>> values;
  values.reserve(static_cast<size_t>(tensor.size()));
  for (const T v : elements<T>(tensor)) values.push_back(static_cast<Sum<T>>(load_element(v)));
  return values;
}

void reference_gemm(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const bool ta = node.integer("trans_a") != 0, tb = node.integer("trans_b") != 0;
  const int64_t m = out[0].dims()[0], n = out[0].dims()[1], k = in[0]->dims()[!ta];
  const double alpha = node.real("alpha"), beta = node.real("beta");
  const Tensor* c = in.size() > 2 ? in[2] : nullptr;
  // Strides of the addend, 0 where it is broadcast.
  int64_t c_row = 0, c_column = 0;
  if (c && c->rank() > 0) {
    const int64_t columns = c->dims().back();
    c_column = columns == 1 ? 0 : 1;
    c_row = c->rank() == 2 && c->dims()[0] != 1 ? columns : 0;
  }
  visit_dtype(out[0].dtype(), [&](auto tag) {
    using T = decltype(tag);
    const auto x = wide<T>(*in[0]), w = wide<T>(*in[1]);
    const auto addend = c ? wide<T>(*c) : std::vector<Sum<T>>();
    auto y = mutable_elements<T>(out[0]);
    for (int64_t i = 0; i < m; ++i)
      for (int64_t j = 0; j < n; ++j) {
        Sum<T> sum = 0;
        for (int64_t p = 0; p < k; ++p)
          sum += x[static_cast<size_t>(ta ? p * m + i : i * k + p)] *
                 w[static_cast<size_t>(tb ? j * k + p : p * n + j)];
        if (alpha != 1) sum = static_cast<Sum<T>>(alpha * static_cast<double>(sum));
        if (c) {
          Sum<T> more = addend[static_cast<size_t>(i * c_row + j * c_column)];
          if (beta != 1) more = static_cast<Sum<T>>(beta * static_cast<double>(more));
          sum += more;
        }
        y[static_cast<size_t>(i * n + j)] = store_element<T>(sum);
      }
  });
}

std::vector<Value*> import_gemm(OnnxNodeReader& reader) {
  if (!reader.input(0) || !reader.input(1)) reader.invalid("needs two matrices");
  return {reader.apply("gemm", {reader.input(0), reader.input(1), reader.input(2)},
                       {{"trans_a", reader.integer("transA", 0)},
                        {"trans_b", reader.integer("transB", 0)},
                        {"alpha", reader.real("alpha", 1)},
                        {"beta", reader.real("beta", 1)}})};
}

constexpr OnnxImportRule gemm_import[] = {{.op_type = "Gemm", .since = 7, .import = import_gemm}};
constexpr OnnxExportRule gemm_export{[](const Node& node, OnnxNodeWriter& writer) {
  std::vector<std::string> inputs{writer.value_name(node.input(0)),
                                  writer.value_name(node.input(1))};
  if (node.input(2)) inputs.push_back(writer.value_name(node.input(2)));
  writer.node("Gemm", std::move(inputs), {writer.value_name(node.output())},
              {{"transA", node.integer("trans_a")},
               {"transB", node.integer("trans_b")},
               {"alpha", node.real("alpha")},
               {"beta", node.real("beta")}});
}};

// ---- matmul

std::vector<TensorType> infer_matmul(const Node& node) {
  const TensorType &a = number_input(node, 0), &b = number_input(node, 1);
  require(node, a.dtype == b.dtype, "the inputs differ in element type");
  return {{a.dtype, matmul_shape(node, a.shape, b.shape)}};
}

void reference_matmul(const Node&, std::span<const Tensor* const> in, std::span<Tensor> out) {
  Dims a = in[0]->dims(), b = in[1]->dims();
  if (a.size() == 1) a.insert(a.begin(), 1);
  if (b.size() == 1) b.push_back(1);
  const int64_t m = a[a.size() - 2], k = a.back(), n = b.back();
  const size_t batch_rank = std::max(a.size(), b.size()) - 2;
  const auto dim = [&](const Dims& dims, size_t i) {  // batch dim i, aligned at the end
    const size_t missing = batch_rank + 2 - dims.size();
    return i < missing ? 1 : dims[i - missing];
  };
  int64_t batches = 1;
  for (size_t i = 0; i < batch_rank; ++i) batches *= dim(a, i) == 1 ? dim(b, i) : dim(a, i);
  visit_dtype(out[0].dtype(), [&](auto tag) {
    using T = decltype(tag);
    const auto x = wide<T>(*in[0]), w = wide<T>(*in[1]);
    auto y = mutable_elements<T>(out[0]);
    for (int64_t batch = 0; batch < batches; ++batch) {
      int64_t rest = batch, ia = 0, ib = 0, sa = 1, sb = 1;
      for (size_t i = batch_rank; i-- > 0;) {
        const int64_t da = dim(a, i), db = dim(b, i), at = rest % std::max(da, db);
        rest /= std::max(da, db);
        ia += (da == 1 ? 0 : at) * sa, ib += (db == 1 ? 0 : at) * sb;
        sa *= da, sb *= db;
      }
      for (int64_t i = 0; i < m; ++i)
        for (int64_t j = 0; j < n; ++j) {
          Sum<T> sum = 0;
          for (int64_t p = 0; p < k; ++p)
            sum += x[static_cast<size_t>((ia * m + i) * k + p)] *
                   w[static_cast<size_t>((ib * k + p) * n + j)];
          y[static_cast<size_t>((batch * m + i) * n + j)] = store_element<T>(sum);
        }
    }
  });
}

std::vector<Value*> import_matmul(OnnxNodeReader& reader) {
  if (!reader.input(0) || !reader.input(1)) reader.invalid("needs two inputs");
  return {reader.apply("matmul", {reader.input(0), reader.input(1)})};
}

constexpr OnnxImportRule matmul_import[] = {{.op_type = "MatMul", .import = import_matmul}};
constexpr OnnxExportRule matmul_export{[](const Node& node, OnnxNodeWriter& writer) {
  writer.node("MatMul", {writer.value_name(node.input(0)), writer.value_name(node.input(1))},
              {writer.value_name(node.output())});
}};

}  // namespace

Shape matmul_shape(const Node& node, const Shape& a, const Shape& b) {
  require(node, a.rank() >= 1 && b.rank() >= 1, "the inputs need at least one axis");
  Shape x = a, y = b;
  if (a.rank() == 1) x.insert(x.begin(), Dim(1));
  if (b.rank() == 1) y.push_back(Dim(1));
  const Dim m = x[x.size() - 2], n = y.back(), k = x.back(), k2 = y[y.size() - 2];
  if (k.is_static() && k2.is_static() && !(k == k2))
    fail(node, fmt::format("inner dimensions {} and {} differ", k.str(), k2.str()));
  x.resize(x.size() - 2, Dim(1));
  y.resize(y.size() - 2, Dim(1));
  Shape out = broadcast_shapes(x, y, node.where());
  if (a.rank() > 1) out.push_back(m);
  if (b.rank() > 1) out.push_back(n);
  return out;
}

const OpImpl op_gemm{
    .doc = "y = alpha * x w + beta * c; x [M, K] and w [K, N], or their transposes; c broadcasts.",
    .min_inputs = 2,
    .max_inputs = 3,
    .attributes = {{"trans_a", AttributeKind::integer, false, int64_t{0}},
                   {"trans_b", AttributeKind::integer, false, int64_t{0}},
                   {"alpha", AttributeKind::real, false, 1.0},
                   {"beta", AttributeKind::real, false, 1.0}},
    .infer = infer_gemm,
    .reference = reference_gemm,
    .onnx_import = gemm_import,
    .onnx_export = &gemm_export};

const OpImpl op_matmul{.doc = "NumPy's matmul: [..., M, K] x [..., K, N], batch axes broadcast.",
                       .min_inputs = 2,
                       .max_inputs = 2,
                       .infer = infer_matmul,
                       .reference = reference_matmul,
                       .onnx_import = matmul_import,
                       .onnx_export = &matmul_export};

}  // namespace octavo::ops
