// Copies of elements: against index arithmetic or values written out.
#include "ops/evaluate.h"

namespace octavo {
namespace {

using namespace octavo::testing;

Tensor counting(Dims dims) {
  Tensor t(DType::i32, std::move(dims));
  int32_t i = 0;
  for (int32_t& v : t.mutable_values<int32_t>()) v = i++;
  return t;
}
Tensor list(const Ints& values) {
  return tensor<int64_t>({static_cast<int64_t>(values.size())}, values);
}

TEST(Movement, ReshapeSqueezeUnsqueeze) {
  const Tensor x = counting({2, 1, 6});
  EXPECT_EQ(evaluate_one("reshape", {x}, {{"shape", Ints{0, -1, 3}}}), x.reshaped({2, 2, 3}));
  EXPECT_EQ(evaluate_one("reshape", {x, list({4, -1})}), x.reshaped({4, 3}));
  EXPECT_EQ(evaluate_one("squeeze", {x}), x.reshaped({2, 6}));
  EXPECT_EQ(evaluate_one("squeeze", {x, list({1})}), x.reshaped({2, 6}));
  EXPECT_EQ(evaluate_one("unsqueeze", {x}, {{"axes", Ints{0, -1}}}), x.reshaped({1, 2, 1, 6, 1}));
  EXPECT_EQ(evaluate_one("unsqueeze", {x, list({1})}), x.reshaped({2, 1, 1, 6}));
  EXPECT_NE(error_of([&] {
              evaluate("squeeze", {x, list({0})});
            }).find("is not 1"),
            std::string::npos);
}

TEST(Movement, TransposeConcatSlice) {
  const Tensor x = counting({2, 3});
  EXPECT_EQ(evaluate_one("transpose", {x}, {{"perm", Ints{1, 0}}}),
            tensor<int32_t>({3, 2}, {0, 3, 1, 4, 2, 5}));
  EXPECT_EQ(evaluate_one("concat", {x, x}, {{"axis", int64_t{1}}}),
            tensor<int32_t>({2, 6}, {0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5}));
  EXPECT_EQ(
      evaluate_one(
          "slice", {x},
          {{"starts", Ints{2}}, {"ends", Ints{-100}}, {"axes", Ints{1}}, {"steps", Ints{-2}}}),
      tensor<int32_t>({2, 2}, {2, 0, 5, 3}));
  EXPECT_EQ(evaluate_one("slice", {x, list({1}), list({5})}), tensor<int32_t>({1, 3}, {3, 4, 5}));
  EXPECT_EQ(evaluate_one("slice", {x, list({1}), list({3}), list({-1}), list({1})}),
            tensor<int32_t>({2, 2}, {1, 2, 4, 5}));
}

TEST(Movement, ExpandTile) {
  const Tensor x = counting({2, 1});
  EXPECT_EQ(evaluate_one("expand", {x}, {{"shape", Ints{2, 2, 3}}}),
            tensor<int32_t>({2, 2, 3}, {0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 1}));
  EXPECT_EQ(evaluate_one("expand", {x, list({3})}), tensor<int32_t>({2, 3}, {0, 0, 0, 1, 1, 1}));
  EXPECT_EQ(evaluate_one("tile", {x}, {{"repeats", Ints{2, 2}}}),
            tensor<int32_t>({4, 2}, {0, 0, 1, 1, 0, 0, 1, 1}));
  EXPECT_EQ(evaluate_one("tile", {x, list({1, 3})}), tensor<int32_t>({2, 3}, {0, 0, 0, 1, 1, 1}));
  EXPECT_NE(error_of([&] {
              evaluate("tile", {x}, {{"repeats", Ints{1}}});
            }).find("per axis"),
            std::string::npos);
}

TEST(Movement, Pad) {
  const Tensor x = counting({4});
  const auto pad = [&](const char* mode, Ints pads) {
    return evaluate_one("pad", {x}, {{"mode", std::string(mode)}, {"pads", std::move(pads)}})
        .to_ints();
  };
  EXPECT_EQ(pad("constant", {2, 1}), (Ints{0, 0, 0, 1, 2, 3, 0}));
  EXPECT_EQ(pad("edge", {2, 1}), (Ints{0, 0, 0, 1, 2, 3, 3}));
  EXPECT_EQ(pad("reflect", {2, 5}), (Ints{2, 1, 0, 1, 2, 3, 2, 1, 0, 1, 2}));
  EXPECT_EQ(pad("wrap", {2, 1}), (Ints{2, 3, 0, 1, 2, 3, 0}));
  EXPECT_EQ(pad("constant", {-1, -2}), Ints{1});
  const Tensor value = tensor<int32_t>({}, {9}), matrix = counting({2, 2});
  EXPECT_EQ(evaluate_one("pad", {matrix, value, list({0, 1}), list({1})}),
            tensor<int32_t>({2, 3}, {0, 1, 9, 2, 3, 9}));
  EXPECT_NE(error_of([&] {
              pad("constant", {-3, -2});
            }).find("more than there is"),
            std::string::npos);
  EXPECT_NE(error_of([&] { pad("mirror", {1, 1}); }).find("mode must be"), std::string::npos);
}

TEST(Movement, BlocksTrianglesAndReversal) {
  const Tensor deep = counting({1, 8, 1, 1});
  EXPECT_EQ(evaluate_one("depth_to_space", {deep}, {{"block", int64_t{2}}}),
            tensor<int32_t>({1, 2, 2, 2}, {0, 2, 4, 6, 1, 3, 5, 7}));
  EXPECT_EQ(
      evaluate_one("depth_to_space", {deep}, {{"block", int64_t{2}}, {"mode", std::string("crd")}}),
      counting({1, 2, 2, 2}));
  const Tensor wide = counting({2, 3, 4, 6});
  const Tensor there = evaluate_one("space_to_depth", {wide}, {{"block", int64_t{2}}});
  EXPECT_EQ(there.dims(), (Dims{2, 12, 2, 3}));
  EXPECT_EQ(evaluate_one("depth_to_space", {there}, {{"block", int64_t{2}}}), wide);
  const Tensor square = counting({3, 3});
  EXPECT_EQ(evaluate_one("triangle", {square}).to_ints(), (Ints{0, 1, 2, 0, 4, 5, 0, 0, 8}));
  EXPECT_EQ(evaluate_one("triangle", {square, tensor<int64_t>({}, {-1})}, {{"upper", int64_t{0}}})
                .to_ints(),
            (Ints{0, 0, 0, 3, 0, 0, 6, 7, 0}));
  const Tensor steps = counting({3, 2});  // time, batch
  EXPECT_EQ(evaluate_one("reverse_sequence", {steps, list({2, 3})}).to_ints(),
            (Ints{2, 5, 0, 3, 4, 1}));
}

TEST(Movement, GatherAndScatter) {
  const Tensor x = counting({3, 2});
  EXPECT_EQ(evaluate_one("gather", {x, tensor<int64_t>({2, 1}, {-1, 0})}),
            tensor<int32_t>({2, 1, 2}, {4, 5, 0, 1}));
  EXPECT_EQ(evaluate_one("gather", {x, tensor<int32_t>({}, {1})}, {{"axis", int64_t{1}}}),
            tensor<int32_t>({3}, {1, 3, 5}));
  EXPECT_EQ(evaluate_one("gather_elements", {x, tensor<int64_t>({1, 2}, {2, 1})}),
            tensor<int32_t>({1, 2}, {4, 3}));
  EXPECT_EQ(evaluate_one("gather_nd", {x, tensor<int64_t>({2, 2}, {0, 1, 2, 0})}),
            tensor<int32_t>({2}, {1, 4}));
  EXPECT_EQ(evaluate_one("gather_nd", {x, tensor<int64_t>({3, 1}, {1, 0, 1})},
                         {{"batch_dims", int64_t{1}}}),
            tensor<int32_t>({3}, {1, 2, 5}));
  const Tensor at = tensor<int64_t>({2, 2}, {0, 0, 0, 2}),
               more = tensor<int32_t>({2, 2}, {7, 8, 9, 6});
  EXPECT_EQ(evaluate_one("scatter_elements", {x, at, more}),
            tensor<int32_t>({3, 2}, {9, 8, 2, 3, 4, 6}));
  for (const auto& [name, first] :
       {std::pair("add", 16), std::pair("mul", 0), std::pair("max", 9), std::pair("min", 0)})
    EXPECT_EQ(evaluate_one("scatter_elements", {x, at, more}, {{"reduction", std::string(name)}})
                  .to_ints()[0],
              first)
        << name;
  EXPECT_EQ(evaluate_one("scatter_nd",
                         {x, tensor<int64_t>({1, 1}, {-1}), tensor<int32_t>({1, 2}, {7, 8})}),
            tensor<int32_t>({3, 2}, {0, 1, 2, 3, 7, 8}));
  EXPECT_NE(error_of([&] {
              evaluate("gather", {x, list({3})});
            }).find("outside an axis of 3"),
            std::string::npos);
  EXPECT_NE(error_of([&] {
              evaluate("scatter_nd", {x, list({0}), more});
            }).find("updates"),
            std::string::npos);
}

TEST(Movement, MadeOfNumbers) {
  EXPECT_EQ(evaluate_one("range", {tensor<int32_t>({}, {10}), tensor<int32_t>({}, {3}),
                                   tensor<int32_t>({}, {-3})}),
            tensor<int32_t>({3}, {10, 7, 4}));
  EXPECT_EQ(evaluate_one("range",
                         {tensor<float>({}, {0}), tensor<float>({}, {-1}), tensor<float>({}, {1})})
                .dims(),
            Dims{0});
  EXPECT_NE(
      error_of([&] {
        evaluate("range", {tensor<float>({}, {0}), tensor<float>({}, {1}), tensor<float>({}, {0})});
      }).find("endless"),
      std::string::npos);
  const Tensor values = tensor<float>({2}, {-1, 1});
  EXPECT_EQ(evaluate_one("one_hot", {list({1, -1, 7}), values, tensor<int64_t>({}, {3})}),
            tensor<float>({3, 3}, {-1, 1, -1, -1, -1, 1, -1, -1, -1}));
  EXPECT_EQ(evaluate_one("one_hot", {list({1, 0}), values},
                         {{"depth", int64_t{2}}, {"axis", int64_t{0}}}),
            tensor<float>({2, 2}, {-1, 1, 1, -1}));
  EXPECT_EQ(evaluate_one("shape", {counting({2, 5, 3})}).to_ints(), (Ints{2, 5, 3}));
  EXPECT_EQ(
      evaluate_one("shape", {counting({2, 5, 3})}, {{"start", int64_t{-2}}, {"end", int64_t{2}}})
          .to_ints(),
      Ints{5});
}

TEST(Movement, ShapesThatDependOnValues) {
  const Tensor x = tensor<float>({2, 3}, {0, 1, 0, 2, 0, 3});
  EXPECT_EQ(evaluate_one("non_zero", {x}), tensor<int64_t>({2, 3}, {0, 1, 1, 1, 0, 2}));
  EXPECT_EQ(evaluate_one("compress", {x, bools({3}, {1, 0, 1})}, {{"axis", int64_t{1}}}),
            tensor<float>({2, 2}, {0, 0, 2, 3}));
  const auto unique = evaluate("unique", {tensor<int64_t>({5}, {7, 2, 7, 1, 2})});
  EXPECT_EQ(unique[0].to_ints(), (Ints{1, 2, 7}));
  EXPECT_EQ(unique[1].to_ints(), (Ints{3, 1, 0}));
  EXPECT_EQ(unique[2].to_ints(), (Ints{2, 1, 2, 0, 1}));
  EXPECT_EQ(unique[3].to_ints(), (Ints{1, 2, 2}));
  const auto unsorted =
      evaluate("unique", {tensor<int64_t>({3}, {7, 2, 7})}, {{"sorted", int64_t{0}}});
  EXPECT_EQ(unsorted[0].to_ints(), (Ints{7, 2}));
}

}  // namespace
}  // namespace octavo
