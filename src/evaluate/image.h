// Pictures, and how one becomes a network's input.
#pragma once
#include <array>
#include <string>
#include <vector>

#include "graph/tensor.h"

namespace octavo {

struct Image {
  int64_t height = 0, width = 0;
  std::vector<uint8_t> pixels;  // [height, width, 3], red green blue
};

// PNG or JPEG by content. UserError (file) on anything else, damaged or over 2^28 pixels.
Image load_image(const std::string& path);

// The preprocessing file: JSON, schemas/preprocessing.schema.json. Steps in order: resize so that
// the shorter side is `shorter_side` (if not 0), centred crop, (pixel - mean) / std per channel in
// float32, channel order, layout.
struct Preprocessing {
  bool bgr = false;
  int64_t shorter_side = 0;
  int64_t crop_height = 0, crop_width = 0;  // 0: no crop
  std::array<float, 3> mean{0, 0, 0}, std{255, 255, 255};
  bool channels_last = false;
};
Preprocessing parse_preprocessing(std::string_view json, const std::string& where);
Preprocessing load_preprocessing(const std::string& path);

// Bilinear with the triangle filter widened when shrinking (as Pillow's BILINEAR), rounded to
// bytes.
Image resize(const Image& image, int64_t height, int64_t width);

// f32[1, 3, H, W] or f32[1, H, W, 3]. UserError if the crop is larger than the picture.
Tensor preprocess(const Image& image, const Preprocessing& how, const std::string& where);

}  // namespace octavo
