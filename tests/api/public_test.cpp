// include/octavo as a user sees it: this file knows no other header of Octavo's.
#include <gtest/gtest.h>
#include <octavo/octavo.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <vector>

namespace {

using octavo::DType, octavo::ErrorKind, octavo::Tensor;

template <class F>
ErrorKind kind_of(F&& body) {
  try {
    body();
  } catch (const octavo::UserError& e) {
    return e.kind();
  }
  ADD_FAILURE() << "no UserError";
  return {};
}

TEST(PublicTensor, CopiesOrViews) {
  std::vector<float> values{1, 2, 3, 4, 5, 6};
  const Tensor copy = Tensor::from({2, 3}, values);
  const Tensor view = Tensor::view(DType::f32, {2, 3}, values.data());
  EXPECT_EQ(static_cast<const void*>(view.data()), values.data());
  values[5] = 7;
  EXPECT_EQ(copy.values<float>()[5], 6);
  EXPECT_EQ(view.values<float>()[5], 7);
  EXPECT_EQ(copy.dims(), (octavo::Dims{2, 3}));
  EXPECT_EQ(copy.bytes(), 24u);
  EXPECT_FALSE(Tensor());
}

TEST(PublicTensor, HoldsTheOwnerOfAView) {
  auto owner = std::make_shared<std::vector<int64_t>>(3, 9);
  const std::weak_ptr<std::vector<int64_t>> alive = owner;
  Tensor view = Tensor::view(DType::i64, {3}, owner->data(), owner);
  owner.reset();
  EXPECT_EQ(view.values<int64_t>()[2], 9);
  view = Tensor();
  EXPECT_TRUE(alive.expired());
}

TEST(PublicTensor, RefusesWhatDoesNotFit) {
  const std::vector<float> values(6);
  EXPECT_EQ(kind_of([&] { Tensor::from({7}, values); }), ErrorKind::value);
  EXPECT_EQ(kind_of([&] { Tensor::from({-2, -3}, values); }), ErrorKind::value);
  EXPECT_EQ(kind_of([&] {
              Tensor::from({int64_t{1} << 32, int64_t{1} << 32}, values);
            }),
            ErrorKind::value);
  EXPECT_EQ(kind_of([&] { Tensor::from({6}, values).values<int32_t>(); }), ErrorKind::value);
  EXPECT_EQ(kind_of([&] { Tensor().dims(); }), ErrorKind::value);
  const auto* odd = reinterpret_cast<const char*>(values.data()) + 1;
  EXPECT_EQ(kind_of([&] { Tensor::view(DType::f32, {1}, odd); }), ErrorKind::value);
  EXPECT_EQ(kind_of([&] { Tensor::view(DType::f32, {1}, nullptr); }), ErrorKind::value);
}

TEST(PublicModel, FilesThatAreNoModels) {
  EXPECT_EQ(kind_of([] { octavo::load_model("/nonexistent.onnx"); }), ErrorKind::file);
  const std::string path = testing::TempDir() + "public_test.octavo";
  std::ofstream(path) << "OCTAVO\r\nshort";
  EXPECT_EQ(kind_of([&] { octavo::load_model(path); }), ErrorKind::file);
  std::filesystem::remove(path);
}

}  // namespace
