#include "evaluate/dataset.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <iterator>

#include "evaluate/image.h"
#include "evaluate/npy.h"
#include "support/error.h"

namespace octavo {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void fail(const std::string& where, const std::string& message,
                       const std::string& hint = "") {
  throw UserError(ErrorKind::file, where, message, hint);
}

template <typename T>
bool has_nan_or_infinity(const Tensor& tensor, bool& nan) {
  for (T v : tensor.values<T>())
    if (!std::isfinite(v)) {
      nan = std::isnan(v);
      return true;
    }
  return false;
}

// Element types and shapes against the signature; NaN and infinities are refused, since statistics
// made of them would be worthless.
void check_sample(const std::vector<Tensor>& inputs, const Program::Signature& signature,
                  ErrorKind kind, const std::string& where) {
  const auto refuse = [&](const std::string& message, const std::string& hint) {
    throw UserError(kind, where, message, hint);
  };
  if (inputs.size() != signature.input_types.size())
    refuse(fmt::format("has {} arrays, the network takes {}", inputs.size(),
                       signature.input_types.size()),
           "give one array for each input");
  for (size_t i = 0; i < inputs.size(); ++i) {
    const TensorType& type = signature.input_types[i];
    const std::string& name = signature.input_names[i];
    const std::string mismatch = fmt::format("input '{}' expects {}, the data are {}", name,
                                             type.str(), inputs[i].type().str());
    if (inputs[i].dtype() != type.dtype)
      refuse(mismatch, fmt::format("convert the data to {}", dtype_name(type.dtype)));
    bool fits = inputs[i].rank() == type.shape.rank();
    for (size_t d = 0; fits && d < type.shape.size(); ++d)
      fits = !type.shape[d].is_static() || type.shape[d].value() == inputs[i].dims()[d];
    if (!fits) refuse(mismatch, "a sample includes the batch axis");
    bool nan = false;
    const bool unusable = type.dtype == DType::f32   ? has_nan_or_infinity<float>(inputs[i], nan)
                          : type.dtype == DType::f64 ? has_nan_or_infinity<double>(inputs[i], nan)
                                                     : false;
    if (unusable)
      refuse(fmt::format("input '{}' holds {}", name, nan ? "NaN" : "infinity"),
             "clean the data: statistics of it would be meaningless");
  }
}

std::string listing(const std::vector<std::string>& names) {
  return fmt::format("{}", fmt::join(names, ", "));
}

// The arrays of one file in the order of the inputs.
std::vector<Tensor> in_order(const std::map<std::string, Tensor>& arrays,
                             const Program::Signature& signature, const std::string& where) {
  if (signature.input_names.size() == 1 && arrays.size() == 1) return {arrays.begin()->second};
  return order_by_name(arrays, signature.input_names, ErrorKind::file, where);
}

class MemoryDataset final : public Dataset {
 public:
  explicit MemoryDataset(std::vector<std::vector<Tensor>> samples) : samples_(std::move(samples)) {}
  size_t size() const override { return samples_.size(); }
  std::vector<Tensor> sample(size_t i) const override { return samples_[i]; }

 private:
  std::vector<std::vector<Tensor>> samples_;
};

// Arrays whose first axis counts the samples.
class ArrayDataset final : public Dataset {
 public:
  ArrayDataset(std::vector<Tensor> arrays, const Program::Signature& signature, std::string where)
      : arrays_(std::move(arrays)), signature_(signature), where_(std::move(where)) {
    for (size_t i = 0; i < arrays_.size(); ++i) {
      const Tensor& array = arrays_[i];
      const Shape& shape = signature.input_types[i].shape;
      if (array.rank() == 0 || shape.empty())
        fail(where_, "an array of samples needs a first axis that counts them");
      const int64_t rows = shape[0].is_static() ? shape[0].value() : 1;
      if (rows == 0 || array.dims()[0] % rows != 0)
        fail(where_,
             fmt::format("{} rows do not divide into batches of {}", array.dims()[0], rows));
      rows_.push_back(rows);
      const auto count = static_cast<size_t>(array.dims()[0] / rows);
      if (i > 0 && count != size_) fail(where_, "the arrays hold different numbers of samples");
      size_ = count;
    }
    if (size_ == 0) fail(where_, "holds no sample");
  }
  size_t size() const override { return size_; }
  std::vector<Tensor> sample(size_t index) const override {
    std::vector<Tensor> inputs;
    for (size_t i = 0; i < arrays_.size(); ++i) {
      Dims dims = arrays_[i].dims();
      dims[0] = rows_[i];
      Tensor slice(arrays_[i].dtype(), dims);
      std::memcpy(slice.mutable_data(), arrays_[i].data() + index * slice.bytes(), slice.bytes());
      inputs.push_back(std::move(slice));
    }
    check_sample(inputs, signature_, ErrorKind::file, fmt::format("{}[{}]", where_, index));
    return inputs;
  }

 private:
  std::vector<Tensor> arrays_;
  Program::Signature signature_;
  std::string where_;
  std::vector<int64_t> rows_;
  size_t size_ = 0;
};

class FolderDataset final : public Dataset {
 public:
  FolderDataset(std::vector<std::string> files, bool pictures, Preprocessing how,
                const Program::Signature& signature)
      : files_(std::move(files)), pictures_(pictures), how_(how), signature_(signature) {}
  size_t size() const override { return files_.size(); }
  std::vector<Tensor> sample(size_t i) const override {
    const std::string& path = files_[i];
    std::vector<Tensor> inputs;
    if (pictures_)
      inputs = {preprocess(load_image(path), how_, path)};
    else if (path.ends_with(".npy"))
      inputs = {load_npy(path)};
    else
      inputs = in_order(load_npz(path), signature_, path);
    check_sample(inputs, signature_, ErrorKind::file, path);
    return inputs;
  }

 private:
  std::vector<std::string> files_;
  bool pictures_;
  Preprocessing how_;
  Program::Signature signature_;
};

std::string lower_extension(const fs::path& path) {
  std::string text = path.extension().string();
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

std::unique_ptr<Dataset> open_folder(const std::string& path, const Program::Signature& signature,
                                     const std::string& preprocessing) {
  std::vector<std::string> arrays, pictures;
  std::error_code error;
  for (fs::directory_iterator entries(path, error), end; !error && entries != end;
       entries.increment(error)) {
    const auto& entry = *entries;
    const std::string extension = lower_extension(entry.path());
    if (extension == ".npy" || extension == ".npz") arrays.push_back(entry.path().string());
    if (extension == ".png" || extension == ".jpg" || extension == ".jpeg")
      pictures.push_back(entry.path().string());
  }
  if (error) fail(path, "cannot be listed: " + error.message());
  if (arrays.empty() && pictures.empty())
    fail(path, "holds no .npz, .npy, .png or .jpg file",
         "the folder itself is searched, not below");
  if (!arrays.empty() && !pictures.empty())
    fail(path, "holds both arrays and pictures", "keep one kind in a folder");
  std::sort(arrays.begin(), arrays.end());
  std::sort(pictures.begin(), pictures.end());
  if (pictures.empty())
    return std::make_unique<FolderDataset>(arrays, false, Preprocessing{}, signature);
  if (signature.input_types.size() != 1)
    fail(path, "pictures fit a network of one input only", "use .npz files");
  std::string description = preprocessing;
  if (description.empty())
    for (const fs::path& candidate :
         {fs::path(path) / "preprocessing.json", fs::path(path) / ".." / "preprocessing.json"})
      if (description.empty() && fs::exists(candidate)) description = candidate.string();
  if (description.empty())
    fail(path, "pictures need a preprocessing file",
         "give --preprocessing FILE or put preprocessing.json beside them");
  return std::make_unique<FolderDataset>(pictures, true, load_preprocessing(description),
                                         signature);
}

std::unique_ptr<Dataset> open(const std::string& path, const Program::Signature& signature,
                              const std::string& preprocessing) {
  std::error_code error;
  if (!fs::exists(path, error)) fail(path, "does not exist", "give a folder, an .npz or an .npy");
  if (fs::is_directory(path)) return open_folder(path, signature, preprocessing);
  const std::string extension = lower_extension(path);
  if (extension == ".npz")
    return std::make_unique<ArrayDataset>(in_order(load_npz(path), signature, path), signature,
                                          path);
  if (extension == ".npy") {
    if (signature.input_names.size() != 1)
      fail(path, "an .npy fits a network of one input only",
           "use an .npz with the arrays " + listing(signature.input_names));
    return std::make_unique<ArrayDataset>(std::vector<Tensor>{load_npy(path)}, signature, path);
  }
  fail(path, "is neither a folder nor .npz nor .npy", "pictures are given as a folder");
}

}  // namespace

std::vector<Tensor> order_by_name(const std::map<std::string, Tensor>& arrays,
                                  const std::vector<std::string>& names, ErrorKind kind,
                                  const std::string& where) {
  std::vector<Tensor> inputs;
  std::vector<std::string> have;
  have.reserve(arrays.size());
  for (const auto& [key, value] : arrays) have.push_back(key);
  for (const std::string& name : names) {
    const auto it = arrays.find(name);
    if (it == arrays.end())
      throw UserError(kind, where,
                      fmt::format("has no array '{}' (it has: {})", name, listing(have)),
                      "name the arrays after the inputs: " + listing(names));
    inputs.push_back(it->second);
  }
  for (const std::string& name : have)
    if (std::find(names.begin(), names.end(), name) == names.end())
      throw UserError(kind, where,
                      fmt::format("has an array '{}' that is no input of the network", name),
                      "leave only the inputs: " + listing(names));
  return inputs;
}

std::unique_ptr<Dataset> open_dataset(const std::string& path, const Program::Signature& signature,
                                      const std::string& preprocessing) {
  auto data = open(path, signature, preprocessing);
  data->sample(0);  // what does not fit is said before any work
  return data;
}

std::unique_ptr<Dataset> memory_dataset(std::vector<std::vector<Tensor>> samples,
                                        const Program::Signature& signature,
                                        const std::string& where) {
  if (samples.empty()) throw UserError(ErrorKind::value, where, "there is no sample");
  for (size_t i = 0; i < samples.size(); ++i)
    check_sample(samples[i], signature, ErrorKind::value, fmt::format("{}: sample {}", where, i));
  return std::make_unique<MemoryDataset>(std::move(samples));
}

}  // namespace octavo
