// Depthwise convolution: packing, tiling and threads. The innermost loops are
// depthwise_int8_<isa>.cpp's; they read pixels through a table of pointers, in which pads point to
// a pixel of zero points, so that borders cost nothing.
#include <algorithm>
#include <cstring>

#include "backends/cpu/conv_int8.h"
#include "backends/cpu/near.h"

namespace octavo::cpu {
namespace {

// About 3 microseconds of a core.
constexpr int64_t task_macs = 192 * 1024;

struct Block {
  int64_t channel;
  int64_t weights, lanes;  // offsets: into weights (bytes), into bias and multiplier
  int width, channels;
};

struct Tiling {
  int64_t rows, blocks;  // a task
  int64_t row_tiles, block_tiles;
  int64_t table_bytes;
};

class DepthwiseInt8 final : public ConvKernel {
 public:
  DepthwiseInt8(const ConvProblem& p, Isa isa, const char* name, DepthwiseInt8Function function)
      : name_(name), isa_(isa), function_(function), s_(p.shape), epilogue_(make_epilogue(p)) {
    x_flip_ = x_flip(p);
    y_size_ = element_size(p.y);
    residual_size_ = p.residual ? element_size(*p.residual) : 0;
    // Its vectors leave residuals to the general epilogue: networks add them after other layers.
    epilogue_.narrow = epilogue_.narrow && !p.residual;
    table_cols_ = (s_.ow - 1) * s_.stride_w + (s_.kw - 1) * s_.dilation_w + 1;
    dynamic_ = p.dynamic != ConvProblem::Dynamic::no;
    if (!dynamic_) {
      zeros_ = AlignedArray<uint8_t>(s_.c_in);
      std::memset(zeros_.data(), static_cast<uint8_t>(p.x_zero_point),
                  static_cast<size_t>(s_.c_in));
    }
    pack(p);
  }

  const char* name() const override { return name_; }
  Isa isa() const override { return isa_; }
  size_t packed_bytes() const override {
    return weights_.bytes() + bias_.bytes() + multiplier_.bytes() + zeros_.bytes() +
           float_bias_.bytes();
  }
  // Tables of all threads, then, of dynamic ones, what a call's scale and zero point make.
  size_t scratch_bytes(int threads) const override {
    const auto tables = static_cast<size_t>(tiling(threads).table_bytes * threads);
    return dynamic_ ? tables + 2 * bias_.bytes() + static_cast<size_t>(s_.c_in) : tables;
  }
  void run(const ConvArgs& args, ThreadPool& pool) const override {
    const Tiling t = tiling(pool.size());
    Parameters with{bias_.data(), multiplier_.data(), zeros_.data()};
    if (dynamic_)
      with = of_call(args, static_cast<std::byte*>(args.scratch) + t.table_bytes * pool.size());
    auto task = [&](int64_t i, int thread) { run_task(args, t, with, i, thread); };
    run_near(pool, s_.n * t.row_tiles * t.block_tiles, task);
  }

 private:
  struct Parameters {
    const int32_t* bias;
    const float* multiplier;
    const uint8_t* zeros;  // a pixel of pads
  };

  Parameters of_call(const ConvArgs& args, std::byte* memory) const {
    const int64_t lanes = static_cast<int64_t>(bias_.bytes() / sizeof(int32_t));
    auto* bias = reinterpret_cast<int32_t*>(memory);
    auto* multiplier = reinterpret_cast<float*>(bias + lanes);
    auto* zeros = reinterpret_cast<uint8_t*>(multiplier + lanes);
    const uint32_t zero = *args.x_zero;
    const float scale = *args.x_scale;
    for (int64_t i = 0; i < lanes; ++i) {  // bias_ holds the sums of weights
      bias[i] = static_cast<int32_t>(0 - zero * static_cast<uint32_t>(bias_[i]));
      multiplier[i] = scale * multiplier_[i];
    }
    std::memset(zeros, static_cast<int>(zero), static_cast<size_t>(s_.c_in));
    return {bias, multiplier, zeros};
  }

  void pack(const ConvProblem& p) {
    const bool portable = isa_ == Isa::portable, wide = isa_ == Isa::avx2 || isa_ == Isa::avx512;
    const int64_t most = isa_ >= Isa::avx512 ? 64 : 32, row_groups = ceil_div(s_.kh, 4);
    const int64_t element = wide ? 2 : 1;
    int64_t weights = 0, lanes = 0;
    for (int64_t c = 0; c < s_.c_out;) {
      const int64_t width = s_.c_out - c <= 32 ? 32 : most;
      const int64_t channels = std::min(width, s_.c_out - c);
      blocks_.push_back({c, weights, lanes, static_cast<int>(width), static_cast<int>(channels)});
      weights += (portable ? s_.kh : row_groups * 4) * s_.kw * width * element;
      lanes += width;
      c += channels;
    }
    weights_ = AlignedArray<int8_t>(weights);
    bias_ = AlignedArray<int32_t>(lanes);
    multiplier_ = AlignedArray<float>(lanes);
    if (dynamic_ && p.bias) float_bias_ = AlignedArray<float>(lanes);
    const auto* w = static_cast<const int8_t*>(p.weights);
    for (const Block& block : blocks_)
      for (int64_t c = 0; c < block.channels; ++c) {
        const int64_t channel = block.channel + c, n = block.width / 4;
        const int64_t quarter = c / 4 % 4, lane = c / 16 * 4 + c % 4;
        const int64_t at = block.lanes + (portable ? c : quarter * n + lane);
        bias_[at] = dynamic_ ? weight_sum(p, channel) : packed_bias(p, channel);
        multiplier_[dynamic_ ? block.lanes + c : at] = p.multiplier[channel];
        if (float_bias_.bytes()) float_bias_[block.lanes + c] = p.bias[channel];
        for (int64_t ky = 0; ky < s_.kh; ++ky)
          for (int64_t kx = 0; kx < s_.kw; ++kx) {
            const int8_t value = w[(channel * s_.kh + ky) * s_.kw + kx];
            int8_t* to = weights_.data() + block.weights;
            const int64_t vector = ((ky / 4 * s_.kw + kx) * 4 + quarter) * block.width;
            if (portable) {
              to[(ky * s_.kw + kx) * block.width + c] = value;
            } else if (wide) {
              const int64_t i = vector + ky % 2 * block.width / 2 + lane * 2 + ky % 4 / 2;
              const auto value16 = static_cast<int16_t>(int{value});
              std::memcpy(to + i * 2, &value16, 2);
            } else {
              to[vector + lane * 4 + ky % 4] = value;
            }
          }
      }
  }

  Tiling tiling(int threads) const {
    const auto blocks = static_cast<int64_t>(blocks_.size());
    const int64_t macs = s_.n * s_.oh * s_.ow * blocks * 64 * s_.kh * s_.kw;
    const int64_t wanted = std::clamp<int64_t>(macs / task_macs, 1, 8 * threads);
    // Small maps are split by channels, large ones by rows.
    Tiling t{};
    const int64_t by_block = s_.oh * s_.ow <= 400 ? std::min(blocks, wanted) : 1;
    const int64_t by_row = std::min(s_.oh, ceil_div(ceil_div(wanted, by_block), s_.n));
    t.blocks = ceil_div(blocks, by_block);
    t.block_tiles = ceil_div(blocks, t.blocks);
    t.rows = ceil_div(s_.oh, by_row);
    t.row_tiles = ceil_div(s_.oh, t.rows);
    const int64_t table_rows = (t.rows - 1) * s_.stride_h + (s_.kh - 1) * s_.dilation_h + 1;
    t.table_bytes = ceil_div(table_rows * table_cols_ * 8, 64) * 64;
    return t;
  }

  void run_task(const ConvArgs& args, const Tiling& t, const Parameters& with, int64_t i,
                int thread) const {
    const int64_t first = i % t.block_tiles * t.blocks;
    const int64_t last = std::min(first + t.blocks, static_cast<int64_t>(blocks_.size()));
    i /= t.block_tiles;
    const int64_t row = i % t.row_tiles * t.rows, n = i / t.row_tiles;
    DepthwiseInt8Tile tile{};
    tile.rows = std::min(t.rows, s_.oh - row);
    tile.cols = s_.ow;
    void* memory = static_cast<char*>(args.scratch) + thread * t.table_bytes;
    auto** table = static_cast<const uint8_t**>(memory);
    fill_table(static_cast<const uint8_t*>(args.x) + n * s_.h * s_.w * s_.c_in, row, tile.rows,
               with.zeros, table);
    tile.pixels = table;
    tile.pixels_step = table_cols_;
    tile.kh = s_.kh;
    tile.kw = s_.kw;
    tile.stride_h = s_.stride_h;
    tile.stride_w = s_.stride_w;
    tile.dilation_h = s_.dilation_h;
    tile.dilation_w = s_.dilation_w;
    tile.x_flip = x_flip_;
    tile.y_step = s_.c_out * y_size_;
    tile.y_row_step = s_.ow * tile.y_step;
    tile.residual_step = s_.c_out * residual_size_;
    tile.residual_row_step = s_.ow * tile.residual_step;
    tile.epilogue = &epilogue_;
    tile.dynamic = dynamic_;
    const int64_t pixel = (n * s_.oh + row) * s_.ow * s_.c_out;
    for (int64_t b = first; b < last; ++b) {
      const Block& block = blocks_[static_cast<size_t>(b)];
      tile.first_channel = block.channel;
      tile.width = block.width;
      tile.channels = block.channels;
      tile.weights = weights_.data() + block.weights;
      tile.bias = with.bias + block.lanes;
      tile.multiplier = with.multiplier + block.lanes;
      if (float_bias_.bytes()) tile.float_bias = float_bias_.data() + block.lanes;
      tile.y = static_cast<uint8_t*>(args.y) + (pixel + block.channel) * y_size_;
      if (residual_size_)
        tile.residual =
            static_cast<const uint8_t*>(args.residual) + (pixel + block.channel) * residual_size_;
      function_(tile);
    }
  }

  void fill_table(const uint8_t* image, int64_t row, int64_t rows, const uint8_t* zeros,
                  const uint8_t** table) const {
    const int64_t top = row * s_.stride_h - s_.pad_top;
    const int64_t bottom = top + (rows - 1) * s_.stride_h + (s_.kh - 1) * s_.dilation_h;
    const int64_t begin = std::min(s_.pad_left, table_cols_);
    const int64_t end = std::clamp(s_.w + s_.pad_left, begin, table_cols_);
    for (int64_t y = top; y <= bottom; ++y, table += table_cols_) {
      if (y < 0 || y >= s_.h) {
        std::fill_n(table, table_cols_, zeros);
        continue;
      }
      const uint8_t* pixel = image + (y * s_.w + begin - s_.pad_left) * s_.c_in;
      std::fill_n(table, begin, zeros);
      for (int64_t x = begin; x < end; ++x, pixel += s_.c_in) table[x] = pixel;
      std::fill(table + end, table + table_cols_, zeros);
    }
  }

  const char* name_;
  Isa isa_;
  DepthwiseInt8Function function_;
  ConvShape s_;
  Int8Epilogue epilogue_;
  uint8_t x_flip_ = 0;
  bool dynamic_ = false;
  int64_t y_size_ = 1, residual_size_ = 0, table_cols_ = 1;
  std::vector<Block> blocks_;
  AlignedArray<int8_t> weights_;
  AlignedArray<int32_t> bias_;
  AlignedArray<float> multiplier_;
  AlignedArray<uint8_t> zeros_;
  AlignedArray<float> float_bias_;  // dynamic only
};

}  // namespace

std::unique_ptr<ConvKernel> make_depthwise_int8(const ConvProblem& problem, Isa isa,
                                                const char* name, DepthwiseInt8Function function,
                                                std::string& why) {
  const ConvShape& s = problem.shape;
  if (s.groups == 1 || s.groups != s.c_in || s.groups != s.c_out) {
    why = "not depthwise: groups, input and output channels differ, or there is one";
    return nullptr;
  }
  return std::make_unique<DepthwiseInt8>(problem, isa, name, function);
}

}  // namespace octavo::cpu
