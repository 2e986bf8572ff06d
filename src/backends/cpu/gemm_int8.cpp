// Convolution as matrix products over output pixels: packing, tiling and threads. The innermost
// loops are gemm_int8_<isa>.cpp's.
//
// A pixel's taps are `segments` runs of consecutive bytes (a row of the window, or one tap) at
// fixed offsets from the pixel's first tap, so the kernel reads the input itself: no im2col. Where
// taps leave the image, or bytes must be flipped, the tile's part of the input (a "band") is first
// copied with its padding to scratch.
#include <algorithm>
#include <cstring>

#include "backends/cpu/conv_int8.h"
#include "backends/cpu/near.h"
#include "support/error.h"

namespace octavo::cpu {
namespace {

constexpr int64_t max_blocks = 4;
// A tile's activations stay in the second-level cache beside the weights' stream.
constexpr int64_t tile_bytes = 192 * 1024;
// About 3 microseconds of a core: smaller tasks cost more to hand out than they balance.
constexpr int64_t unit_cols = 12;  // a multiple of most register blocks' heights
constexpr int64_t task_macs = 512 * 1024;

bool has_row_segments(const ConvShape& s) { return s.groups == 1 && s.dilation_w == 1; }
int64_t segment_length(const ConvShape& s) {
  return has_row_segments(s) ? s.kw * s.c_in : s.c_in / s.groups;
}

struct Panel {
  int64_t channel;  // first output channel
  int64_t group;
  int64_t weights, bias;  // offsets into the packed arrays
  int blocks, channels;
};

struct Tiling {
  int64_t rows, cols, panels;  // of output, a task
  int64_t row_tiles, col_tiles, panel_tiles;
  int64_t band_step, band_bytes;  // a row of the band, the band
};

class GemmInt8 final : public ConvKernel {
 public:
  GemmInt8(const ConvProblem& p, Isa isa, const char* name, GemmInt8Function function)
      : name_(name), isa_(isa), function_(function), s_(p.shape), epilogue_(make_epilogue(p)) {
    flip_ = x_flip(p);
    dynamic_ = p.dynamic != ConvProblem::Dynamic::no;
    x_step_ = p.dynamic == ConvProblem::Dynamic::row;
    pad_byte_ = static_cast<uint8_t>(p.x_zero_point);
    y_size_ = element_size(p.y);
    residual_size_ = p.residual ? element_size(*p.residual) : 0;
    pointwise_ = s_.kh == 1 && s_.kw == 1 && s_.stride_h == 1 && s_.stride_w == 1 &&
                 s_.pad_top == 0 && s_.pad_left == 0 && s_.oh == s_.h && s_.ow == s_.w;
    if (pointwise_) {  // one long row of pixels
      s_.w = s_.ow = s_.n * s_.h * s_.w;
      s_.n = s_.h = s_.oh = 1;
    }
    row_segments_ = has_row_segments(s_);
    segments_ = row_segments_ ? s_.kh : s_.kh * s_.kw;
    k4_ = segment_k4(s_);
    const bool inside = s_.pad_top == 0 && s_.pad_left == 0 &&
                        (s_.oh - 1) * s_.stride_h + (s_.kh - 1) * s_.dilation_h < s_.h &&
                        (s_.ow - 1) * s_.stride_w + (s_.kw - 1) * s_.dilation_w < s_.w;
    direct_ = inside && flip_ == 0 && segment_length(s_) % 4 == 0;
    direct_at_ = segment_offsets(s_.w * s_.c_in);
    split_cols_ = s_.oh == 1 && s_.kh == 1;  // else a tile is whole rows, and so is its band
    band_cols_ = (s_.ow - 1) * s_.stride_w + (s_.kw - 1) * s_.dilation_w + 1;
    band_at_ = segment_offsets(band_cols_ * s_.c_in);
    pack(p);
    weights_.hold_once();
  }

  const char* name() const override { return name_; }
  Isa isa() const override { return isa_; }
  size_t packed_bytes() const override {
    return weights_.bytes() + bias_.bytes() + multiplier_.bytes() + sums_.bytes() +
           float_bias_.bytes();
  }
  size_t scratch_bytes(int threads) const override {
    return static_cast<size_t>(direct_ ? 0 : tiling(threads).band_bytes * threads);
  }

  void run(const ConvArgs& args, ThreadPool& pool) const override {
    const Tiling t = tiling(pool.size());
    auto task = [&](int64_t i, int thread) { run_task(args, t, i, thread); };
    run_near(pool, s_.n * t.row_tiles * t.col_tiles * t.panel_tiles, task);
  }

 private:
  std::vector<int64_t> segment_offsets(int64_t row) const {
    std::vector<int64_t> at;
    for (int64_t y = 0; y < s_.kh; ++y)
      for (int64_t x = 0; x < (row_segments_ ? 1 : s_.kw); ++x)
        at.push_back(y * s_.dilation_h * row + x * s_.dilation_w * s_.c_in);
    return at;
  }

  // Rows of 7 and 8 pixels are one block of registers beside 3 vectors of channels, two beside 4,
  // for each of which the weights come from the second-level cache again.
  int64_t widest_panel() const {
    return isa_ == Isa::vnni && !split_cols_ && (s_.ow == 7 || s_.ow == 8) ? 3 : max_blocks;
  }

  void pack(const ConvProblem& p) {
    const int64_t group_out = s_.c_out / s_.groups, blocks = ceil_div(group_out, 16);
    const int64_t panels = ceil_div(blocks, widest_panel());
    int64_t weights = 0, bias = 0;
    for (int64_t g = 0; g < s_.groups; ++g)
      for (int64_t i = 0, block = 0; i < panels; ++i) {  // of nearly equal width
        const int64_t width = blocks / panels + (i < blocks % panels);
        panels_.push_back({g * group_out + block * 16, g, weights, bias, static_cast<int>(width),
                           static_cast<int>(std::min(width * 16, group_out - block * 16))});
        weights += segments_ * k4_ * width * 64;
        bias += width * 16;
        block += width;
      }
    weights_ = AlignedArray<int8_t>(weights);
    bias_ = AlignedArray<int32_t>(bias);
    multiplier_ = AlignedArray<float>(bias);
    if (dynamic_) sums_ = AlignedArray<int32_t>(bias);
    if (dynamic_ && p.bias) float_bias_ = AlignedArray<float>(bias);
    std::vector<int8_t> rows(static_cast<size_t>(16 * segments_ * k4_ * 4));
    for (const Panel& panel : panels_)
      for (int block = 0; block < panel.blocks; ++block) {
        const int64_t count = std::min(16, panel.channels - block * 16);
        for (int64_t c = 0; c < count; ++c) {
          const int64_t channel = panel.channel + block * 16 + c, at = panel.bias + block * 16 + c;
          if (dynamic_)
            sums_[at] = weight_sum(p, channel);
          else
            bias_[at] = packed_bias(p, channel);
          if (dynamic_ && p.bias) float_bias_[at] = p.bias[channel];
          multiplier_[at] = p.multiplier[channel];
          pack_row(p, channel, rows.data() + c * segments_ * k4_ * 4);
        }
        // A block's 64 bytes at a time.
        int8_t* to = weights_.data() + panel.weights + block * 64;
        for (int64_t k = 0; k < segments_ * k4_; ++k, to += panel.blocks * 64)
          for (int64_t c = 0; c < count; ++c)
            std::memcpy(to + 4 * c, rows.data() + (c * segments_ * k4_ + k) * 4, 4);
      }
  }

  // One channel's weights in the order in which the kernel meets them.
  void pack_row(const ConvProblem& p, int64_t channel, int8_t* row) const {
    const int64_t group_in = s_.c_in / s_.groups, taps = s_.kh * s_.kw;
    const auto* w = static_cast<const int8_t*>(p.weights) + channel * group_in * taps;
    for (int64_t tap = 0; tap < taps; ++tap) {
      int8_t* to = row_segments_ ? row + tap / s_.kw * k4_ * 4 + tap % s_.kw * group_in
                                 : row + tap * k4_ * 4;
      for (int64_t ci = 0; ci < group_in; ++ci) to[ci] = w[ci * taps + tap];
    }
  }

  Tiling tiling(int threads) const {
    const int64_t pixels = s_.n * s_.oh * s_.ow, panels = static_cast<int64_t>(panels_.size());
    const int64_t depth = segments_ * k4_ * 4;
    const int64_t macs = pixels * depth * ceil_div(s_.c_out / s_.groups, 16) * 16 * s_.groups;
    const int64_t least = isa_ == Isa::amx ? 4 * task_macs : task_macs;
    const int64_t wanted = std::clamp<int64_t>(macs / least, 1, 8 * threads);
    // Split what is larger, so that the other is read once by each core; then the other if needed.
    const int64_t units = split_cols_ ? ceil_div(s_.ow, unit_cols) : s_.oh;
    int64_t spatial, across;
    if (static_cast<int64_t>(weights_.bytes()) > pixels * depth) {
      across = std::min(panels, wanted);
      spatial = ceil_div(ceil_div(wanted, across), s_.n);
    } else {
      spatial = std::min(ceil_div(wanted, s_.n), units);
      across = std::min(panels, ceil_div(wanted, spatial * s_.n));
    }
    const int64_t unit_pixels = split_cols_ ? unit_cols * s_.stride_w : s_.w * s_.stride_h;
    const int64_t fit = std::max<int64_t>(1, tile_bytes / (unit_pixels * s_.c_in));
    const int64_t unit = std::min(ceil_div(units, std::min(spatial, units)), fit);
    Tiling t{};
    t.panels = ceil_div(panels, across);
    t.panel_tiles = ceil_div(panels, t.panels);
    t.rows = split_cols_ ? 1 : unit;
    t.cols = split_cols_ ? std::min(s_.ow, unit * unit_cols) : s_.ow;
    t.row_tiles = ceil_div(s_.oh, t.rows);
    t.col_tiles = ceil_div(s_.ow, t.cols);
    const int64_t band_rows = (t.rows - 1) * s_.stride_h + (s_.kh - 1) * s_.dilation_h + 1;
    t.band_step =
        s_.c_in *
        (split_cols_ ? (t.cols - 1) * s_.stride_w + (s_.kw - 1) * s_.dilation_w + 1 : band_cols_);
    // The last segment may be read up to 3 bytes beyond its end.
    t.band_bytes = ceil_div(band_rows * t.band_step + 64, 64) * 64;
    return t;
  }

  void run_task(const ConvArgs& args, const Tiling& t, int64_t i, int thread) const {
    const int64_t panel_tile = i % t.panel_tiles;
    i /= t.panel_tiles;
    const int64_t col = i % t.col_tiles * t.cols;
    i /= t.col_tiles;
    const int64_t row = i % t.row_tiles * t.rows, n = i / t.row_tiles;
    const int64_t rows = std::min(t.rows, s_.oh - row), cols = std::min(t.cols, s_.ow - col);

    const int64_t top = row * s_.stride_h - s_.pad_top, left = col * s_.stride_w - s_.pad_left;
    const auto* image = static_cast<const uint8_t*>(args.x) + n * s_.h * s_.w * s_.c_in;
    GemmInt8Tile tile{};
    const uint8_t* a;
    int64_t row_step;
    if (direct_) {
      a = image + (top * s_.w + left) * s_.c_in;
      row_step = s_.w * s_.c_in;
      tile.segment_at = direct_at_.data();
    } else {
      auto* band = static_cast<uint8_t*>(args.scratch) + thread * t.band_bytes;
      const uint8_t pad = dynamic_ ? *args.x_zero : pad_byte_ ^ flip_;
      fill_band(image, top, left, t.band_step, rows, cols, pad, band);
      a = band;
      row_step = t.band_step;
      tile.segment_at = band_at_.data();
    }
    tile.pixel_step = s_.stride_w * s_.c_in;
    tile.segments = segments_;
    tile.k4 = k4_;
    tile.y_step = s_.c_out * y_size_;
    tile.residual_step = s_.c_out * residual_size_;
    tile.pixels = cols;
    tile.epilogue = &epilogue_;
    const int64_t first = panel_tile * t.panels;
    const int64_t last = std::min(first + t.panels, static_cast<int64_t>(panels_.size()));
    for (int64_t j = first; j < last; ++j) {
      const Panel& panel = panels_[static_cast<size_t>(j)];
      tile.weights = weights_.data() + panel.weights;
      tile.bias = bias_.data() + panel.bias;
      tile.multiplier = multiplier_.data() + panel.bias;
      tile.blocks = panel.blocks;
      tile.channels = panel.channels;
      if (dynamic_) {
        tile.weight_sums = sums_.data() + panel.bias;
        if (float_bias_.bytes()) tile.float_bias = float_bias_.data() + panel.bias;
        tile.x_step = x_step_;
      }
      // The next panel's weights, in equal parts behind each row.
      const int8_t* next = tile.weights;
      int64_t next_bytes = 0;
      if (j + 1 < last) {
        next = weights_.data() + panels_[static_cast<size_t>(j) + 1].weights;
        next_bytes = segments_ * k4_ * panels_[static_cast<size_t>(j) + 1].blocks * 64;
      }
      for (int64_t r = 0; r < rows; ++r) {
        tile.ahead = next + next_bytes * r / rows;
        tile.ahead_end = next + next_bytes * (r + 1) / rows;
        const int64_t pixel = (n * s_.oh + row + r) * s_.ow + col;
        const int64_t at = pixel * s_.c_out + panel.channel;
        tile.a = a + r * s_.stride_h * row_step + panel.group * (s_.c_in / s_.groups);
        tile.y = static_cast<uint8_t*>(args.y) + at * y_size_;
        if (residual_size_)
          tile.residual = static_cast<const uint8_t*>(args.residual) + at * residual_size_;
        if (dynamic_) {
          tile.x_scale = args.x_scale + pixel * x_step_;
          tile.x_zero = args.x_zero + pixel * x_step_;
        }
        function_(tile);
      }
    }
  }

  void fill_band(const uint8_t* image, int64_t top, int64_t left, int64_t band_step, int64_t rows,
                 int64_t cols, uint8_t pad, uint8_t* band) const {
    const int64_t c = s_.c_in;
    const int64_t band_rows = (rows - 1) * s_.stride_h + (s_.kh - 1) * s_.dilation_h + 1;
    const int64_t band_cols = (cols - 1) * s_.stride_w + (s_.kw - 1) * s_.dilation_w + 1;
    const int64_t begin = std::clamp<int64_t>(-left, 0, band_cols);
    const int64_t end = std::clamp<int64_t>(s_.w - left, begin, band_cols);
    for (int64_t r = 0; r < band_rows; ++r, band += band_step) {
      const int64_t y = top + r;
      if (y < 0 || y >= s_.h) {
        std::memset(band, pad, static_cast<size_t>(band_cols * c));
        continue;
      }
      std::memset(band, pad, static_cast<size_t>(begin * c));
      const uint8_t* from = image + (y * s_.w + left + begin) * c;
      uint8_t* to = band + begin * c;
      const int64_t bytes = (end - begin) * c;
      if (flip_ == 0)
        std::memcpy(to, from, static_cast<size_t>(bytes));
      else
        for (int64_t i = 0; i < bytes; ++i) to[i] = from[i] ^ flip_;
      std::memset(band + end * c, pad, static_cast<size_t>((band_cols - end) * c));
    }
  }

  const char* name_;
  Isa isa_;
  GemmInt8Function function_;
  ConvShape s_;
  Int8Epilogue epilogue_;
  uint8_t flip_ = 0, pad_byte_ = 0;
  int64_t y_size_ = 1, residual_size_ = 0;
  bool dynamic_ = false;
  int64_t x_step_ = 0;  // between the scales of pixels
  bool pointwise_ = false, row_segments_ = false, direct_ = false, split_cols_ = false;
  int64_t segments_ = 1, k4_ = 1, band_cols_ = 1;
  std::vector<int64_t> direct_at_, band_at_;
  std::vector<Panel> panels_;
  AlignedArray<int8_t> weights_;
  AlignedArray<int32_t> bias_;
  AlignedArray<float> multiplier_;
  AlignedArray<int32_t> sums_;  // of weights; dynamic only
  AlignedArray<float> float_bias_;
};

}  // namespace

int64_t segment_k4(const ConvShape& shape) { return ceil_div(segment_length(shape), 4); }

std::unique_ptr<ConvKernel> make_gemm_int8(const ConvProblem& problem, Isa isa, const char* name,
                                           GemmInt8Function function) {
  return std::make_unique<GemmInt8>(problem, isa, name, function);
}

}  // namespace octavo::cpu
