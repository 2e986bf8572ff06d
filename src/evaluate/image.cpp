#include "evaluate/image.h"

#include <jpeglib.h>
#include <png.h>

#include <algorithm>
#include <cmath>
#include <csetjmp>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "support/error.h"
#include "support/file.h"

namespace octavo {
namespace {

constexpr int64_t most_pixels = int64_t{1} << 28;

[[noreturn]] void fail(const std::string& where, const std::string& message) {
  throw UserError(ErrorKind::file, where, message);
}

Image decode_png(const MappedFile& file, const std::string& path) {
  png_image png{};
  png.version = PNG_IMAGE_VERSION;
  if (!png_image_begin_read_from_memory(&png, file.data(), file.size()))
    fail(path, fmt::format("is a damaged PNG: {}", png.message));
  Image image{png.height, png.width, {}};
  if (image.height * image.width > most_pixels) {
    png_image_free(&png);
    fail(path, "has more than 2^28 pixels");
  }
  png.format = PNG_FORMAT_RGB;
  image.pixels.resize(PNG_IMAGE_SIZE(png));
  const png_color background{0, 0, 0};
  if (!png_image_finish_read(&png, &background, image.pixels.data(), 0, nullptr)) {
    const std::string message = png.message;
    png_image_free(&png);
    fail(path, "is a damaged PNG: " + message);
  }
  return image;
}

struct JpegErrors {
  jpeg_error_mgr manager;
  std::jmp_buf jump;
  char message[JMSG_LENGTH_MAX];
};

// Nothing in this frame has a destructor: libjpeg leaves it by longjmp.
bool decode_jpeg_raw(const MappedFile& file, JpegErrors& errors, int64_t& height, int64_t& width,
                     uint8_t* (*allocate)(void*, size_t), void* owner) {
  jpeg_decompress_struct jpeg;
  jpeg.err = jpeg_std_error(&errors.manager);
  errors.manager.error_exit = [](j_common_ptr info) {
    auto* own = reinterpret_cast<JpegErrors*>(info->err);
    own->manager.format_message(info, own->message);
    std::longjmp(own->jump, 1);
  };
  errors.manager.output_message = [](j_common_ptr) {};
  if (setjmp(errors.jump)) {
    jpeg_destroy_decompress(&jpeg);
    return false;
  }
  jpeg_create_decompress(&jpeg);
  jpeg_mem_src(&jpeg, reinterpret_cast<const unsigned char*>(file.data()), file.size());
  jpeg_read_header(&jpeg, TRUE);
  jpeg.out_color_space = JCS_RGB;
  jpeg.dct_method = JDCT_ISLOW;
  jpeg_start_decompress(&jpeg);
  height = jpeg.output_height, width = jpeg.output_width;
  uint8_t* pixels = height * width <= most_pixels
                        ? allocate(owner, static_cast<size_t>(height * width * 3))
                        : nullptr;
  if (!pixels) {
    std::snprintf(errors.message, sizeof errors.message, "more than 2^28 pixels");
    jpeg_destroy_decompress(&jpeg);
    return false;
  }
  while (jpeg.output_scanline < jpeg.output_height) {
    JSAMPROW row =
        pixels + static_cast<size_t>(jpeg.output_scanline) * static_cast<size_t>(width) * 3;
    jpeg_read_scanlines(&jpeg, &row, 1);
  }
  jpeg_finish_decompress(&jpeg);
  const bool whole = errors.manager.num_warnings == 0;  // a cut-off file only warns
  if (!whole) errors.manager.format_message(reinterpret_cast<j_common_ptr>(&jpeg), errors.message);
  jpeg_destroy_decompress(&jpeg);
  return whole;
}

Image decode_jpeg(const MappedFile& file, const std::string& path) {
  Image image;
  JpegErrors errors{};
  const auto allocate = [](void* owner, size_t size) {
    auto& pixels = *static_cast<std::vector<uint8_t>*>(owner);
    pixels.resize(size);
    return pixels.data();
  };
  if (!decode_jpeg_raw(file, errors, image.height, image.width, allocate, &image.pixels))
    fail(path, fmt::format("is a damaged JPEG: {}", errors.message));
  return image;
}

// One axis of the resize: for each output position the first input position and its weights.
struct Taps {
  int64_t first;
  std::vector<double> weights;
};
std::vector<Taps> filter(int64_t from, int64_t to) {
  const double scale = static_cast<double>(from) / static_cast<double>(to),
               support = std::max(1.0, scale);
  std::vector<Taps> taps(static_cast<size_t>(to));
  for (int64_t i = 0; i < to; ++i) {
    const double center = (static_cast<double>(i) + 0.5) * scale;
    const auto first = std::max<int64_t>(0, static_cast<int64_t>(center - support + 0.5));
    const auto last = std::min<int64_t>(from, static_cast<int64_t>(center + support + 0.5));
    Taps& t = taps[static_cast<size_t>(i)];
    t.first = first;
    double sum = 0;
    for (int64_t k = first; k < last; ++k) {
      const double distance = std::abs((static_cast<double>(k) + 0.5 - center) / support);
      t.weights.push_back(std::max(0.0, 1 - distance));
      sum += t.weights.back();
    }
    for (double& w : t.weights) w /= sum;
  }
  return taps;
}

uint8_t to_byte(double value) {
  return static_cast<uint8_t>(std::clamp(std::floor(value + 0.5), 0.0, 255.0));
}

}  // namespace

Image load_image(const std::string& path) {
  const auto file = MappedFile::open(path);
  const auto* bytes = reinterpret_cast<const uint8_t*>(file->data());
  if (file->size() >= 8 && png_sig_cmp(bytes, 0, 8) == 0) return decode_png(*file, path);
  if (file->size() >= 3 && bytes[0] == 0xff && bytes[1] == 0xd8 && bytes[2] == 0xff)
    return decode_jpeg(*file, path);
  fail(path, "is neither PNG nor JPEG");
}

Image resize(const Image& image, int64_t height, int64_t width) {
  // Columns first, then rows, each rounded to bytes.
  Image wide{image.height, width,
             std::vector<uint8_t>(static_cast<size_t>(image.height * width * 3))};
  const auto columns = filter(image.width, width), rows = filter(image.height, height);
  for (int64_t y = 0; y < image.height; ++y)
    for (int64_t x = 0; x < width; ++x)
      for (int64_t c = 0; c < 3; ++c) {
        const Taps& t = columns[static_cast<size_t>(x)];
        double sum = 0;
        for (size_t k = 0; k < t.weights.size(); ++k)
          sum += t.weights[k] *
                 image.pixels[static_cast<size_t>((y * image.width + t.first) * 3 + c) + 3 * k];
        wide.pixels[static_cast<size_t>((y * width + x) * 3 + c)] = to_byte(sum);
      }
  Image out{height, width, std::vector<uint8_t>(static_cast<size_t>(height * width * 3))};
  for (int64_t y = 0; y < height; ++y)
    for (int64_t i = 0; i < width * 3; ++i) {
      const Taps& t = rows[static_cast<size_t>(y)];
      double sum = 0;
      for (size_t k = 0; k < t.weights.size(); ++k)
        sum += t.weights[k] * wide.pixels[static_cast<size_t>(t.first * width * 3 + i) +
                                          k * static_cast<size_t>(width) * 3];
      out.pixels[static_cast<size_t>(y * width * 3 + i)] = to_byte(sum);
    }
  return out;
}

Preprocessing parse_preprocessing(std::string_view text, const std::string& where) {
  using nlohmann::json;
  Preprocessing p;
  const auto bad = [&](const std::string& message) {
    throw UserError(ErrorKind::file, where, message, "see schemas/preprocessing.schema.json");
  };
  const auto one_of = [&](const std::string& key, const json& value, const char* first,
                          const char* second = "") {
    if (value != first && (!*second || value != second))
      bad(fmt::format("{} must be {}{}{}", key, first, *second ? " or " : "", second));
    return value == first;
  };
  const auto side = [&](const std::string& key, const json& object, const char* name) {
    const auto at = object.find(name);
    const bool whole = at != object.end() && at->is_number() && at->get<double>() >= 1 &&
                       at->get<double>() <= 16384 &&
                       at->get<double>() == std::floor(at->get<double>());
    if (!whole) bad(fmt::format("{}.{} must be a whole number from 1 to 16384", key, name));
    return at->get<int64_t>();
  };
  const auto three = [&](const std::string& key, const json& value) {
    std::array<float, 3> numbers{};
    bool fits = value.is_array() && value.size() == 3;
    for (size_t i = 0; fits && i < 3; ++i) {
      fits = value[i].is_number();
      if (fits) numbers[i] = value[i].get<float>();
      fits = fits && std::isfinite(numbers[i]);
    }
    if (!fits) bad(key + " must be a list of three numbers");
    return numbers;
  };
  const auto only = [&](const std::string& key, const json& object,
                        std::initializer_list<std::string_view> names) {
    if (!object.is_object()) bad(key + " must be an object");
    for (const auto& [name, value] : object.items())
      if (std::find(names.begin(), names.end(), name) == names.end())
        bad(fmt::format("{}.{} is not known", key, name));
  };
  json file;
  try {
    file = json::parse(text);
  } catch (const json::parse_error& e) {
    bad(fmt::format("not JSON: {}", e.what()));
  }
  if (!file.is_object()) bad("must be an object");
  const auto version = file.find("schema_version");
  if (version == file.end() || !version->is_number() || *version != 1)
    bad("schema_version must be 1");
  for (const auto& [key, value] : file.items()) {
    if (key == "schema_version") continue;
    if (key == "color") {
      p.bgr = !one_of(key, value, "RGB", "BGR");
    } else if (key == "resize") {
      only(key, value, {"shorter_side", "filter"});
      p.shorter_side = side(key, value, "shorter_side");
      if (value.contains("filter")) one_of("resize.filter", value["filter"], "bilinear");
    } else if (key == "crop") {
      only(key, value, {"height", "width", "position"});
      p.crop_height = side(key, value, "height");
      p.crop_width = side(key, value, "width");
      if (value.contains("position")) one_of("crop.position", value["position"], "center");
    } else if (key == "mean") {
      p.mean = three(key, value);
    } else if (key == "std") {
      p.std = three(key, value);
      for (float s : p.std)
        if (!(s > 0)) bad("std must be positive");
    } else if (key == "layout") {
      p.channels_last = !one_of(key, value, "NCHW", "NHWC");
    } else if (key == "dtype") {
      one_of(key, value, "float32");
    } else {
      bad(fmt::format("unknown key '{}'", key));
    }
  }
  return p;
}

Preprocessing load_preprocessing(const std::string& path) {
  const auto file = MappedFile::open(path);
  return parse_preprocessing({reinterpret_cast<const char*>(file->data()), file->size()}, path);
}

Tensor preprocess(const Image& original, const Preprocessing& how, const std::string& where) {
  const Image* image = &original;
  Image resized;
  const int64_t shorter = std::min(original.height, original.width);
  if (how.shorter_side > 0 && shorter != how.shorter_side) {
    const auto scaled = [&](int64_t side) {
      return side == shorter ? how.shorter_side : (side * how.shorter_side + shorter / 2) / shorter;
    };
    resized = resize(original, scaled(original.height), scaled(original.width));
    image = &resized;
  }
  const int64_t h = how.crop_height ? how.crop_height : image->height,
                w = how.crop_width ? how.crop_width : image->width;
  if (h > image->height || w > image->width)
    fail(where, fmt::format("the crop of {}x{} is larger than the picture, {}x{}", h, w,
                            image->height, image->width));
  const int64_t top = (image->height - h) / 2, left = (image->width - w) / 2;
  Tensor out(DType::f32, how.channels_last ? Dims{1, h, w, 3} : Dims{1, 3, h, w});
  auto values = out.mutable_values<float>();
  for (int64_t y = 0; y < h; ++y)
    for (int64_t x = 0; x < w; ++x)
      for (int64_t c = 0; c < 3; ++c) {
        const int64_t source = how.bgr ? 2 - c : c;
        const float v =
            image->pixels[static_cast<size_t>(((y + top) * image->width + x + left) * 3 + source)];
        const int64_t at = how.channels_last ? (y * w + x) * 3 + c : (c * h + y) * w + x;
        values[static_cast<size_t>(at)] =
            (v - how.mean[static_cast<size_t>(c)]) / how.std[static_cast<size_t>(c)];
      }
  return out;
}

}  // namespace octavo
