// Convolution as a matrix product: rows are output pixels, columns output channels, and a row's sum
// runs over segments, contiguous stretches of the input:
//   few input channels, one group:  a segment is a row of the window (kh segments of kw * c_in);
//                                   where it leaves the image, a padded copy in scratch
//   else:                           a segment is a tap (kh * kw segments of c_in / groups); outside
//                                   the image, a row of zeros
// Work is cut into blocks of rows by groups of panels. How depends on the pool, but each sum is
// added in one order: bias, then the depth blocks, which depend on the shape alone.
// Integer weights stay integers of 8 or 4 bits. Few rows of a matrix product are multiplied
// straight from them; else each depth block of a panel is unpacked into scratch first. Both give
// what the unpacked weights would, bit for bit.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "backends/cpu/conv_f32.h"
#include "backends/cpu/near.h"
#include "backends/cpu/packed_weights.h"
#include "support/shared_buffers.h"

namespace octavo::cpu {
namespace {

constexpr int64_t block_rows = 208;        // of 512 floats: 416 KiB of a level 2 cache
constexpr int64_t block_depth = 512;       // times a panel of 64 channels: 128 KiB
constexpr int64_t task_macs = 128 * 1024;  // about 2 microseconds of a core
constexpr int64_t unit_rows = 24;          // of a task at least, if there are as many
constexpr int64_t few_channels = 12;       // below, a tap is too short for a segment
constexpr int64_t few_rows = 8;  // not more are multiplied by packed weights without unpacking

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Panel {
  int vectors;
  int64_t channel;  // first, within its group
  int64_t weights;  // floats from the group's first; not of integers
};

class GemmF32 final : public ConvKernel {
 public:
  GemmF32(const ConvProblem& p, const char* name, Isa isa, const ConvF32Kernels& kernels,
          const PackedKernels* packed)
      : name_(name),
        isa_(isa),
        kernels_(kernels),
        packed_kernels_(packed),
        shape_(p.shape),
        residual_(p.residual),
        round_(p.round),
        slope_(p.negative_slope),
        lo_(p.clamp_lo),
        hi_(p.clamp_hi) {
    const ConvShape& s = shape_;
    c_in_ = s.c_in / s.groups;
    c_out_ = s.c_out / s.groups;
    rows_ = s.n * s.oh * s.ow;
    by_rows_ = s.groups == 1 && s.dilation_w == 1 && s.kw > 1 && c_in_ < few_channels;
    pointwise_ = s.kh * s.kw * s.groups == 1 && s.stride_h == 1 && s.stride_w == 1 &&
                 s.oh * s.ow == s.h * s.w;
    segments_ = by_rows_ ? s.kh : s.kh * s.kw;
    length_ = by_rows_ ? s.kw * c_in_ : c_in_;
    const bool grouped = p.integers && p.integers->group > 0 && p.integers->group < length_;
    plan_depth(grouped ? p.integers->group : 1);
    plan_panels();
    group_weights_ = p.integers ? 0 : segments_ * length_ * padded_channels_;
    keep_bias(p);
    if (p.integers) {
      pack_integers(p);
      return;
    }
    // All that decides where a weight lies.
    const std::string how = fmt::format(
        "gemm_f32 {} {} {} {} {} {} {} {} {} {} {}", kernels_.width, kernels_.max_vectors, s.groups,
        c_in_, c_out_, s.kh, s.kw, by_rows_, block_segments_, block_length_, p.weights_by_input);
    packed_ = made_once(p.memory, how, [&] { return pack(p); });
    weights_ = reinterpret_cast<const float*>(packed_->data());
  }

  const char* name() const override { return name_; }
  Isa isa() const override { return isa_; }
  size_t packed_bytes() const override {
    return (packed_ ? packed_->size() : integers_->bytes()) + constants_->size();
  }
  size_t scratch_bytes(int threads) const override {
    return static_cast<size_t>(threads) * thread_scratch();
  }

  void run(const ConvArgs& args, ThreadPool& pool) const override {
    if (rows_ == 0) return;
    const int64_t panels = static_cast<int64_t>(panels_.size());
    const int64_t least = divide_up(rows_, block_rows) * shape_.groups;
    const int64_t depth = segments_ * length_;
    // Enough tasks for an even end, but none so short that handing it out takes as long.
    const int64_t wanted =
        pool.size() == 1 ? 1
                         : std::clamp<int64_t>(rows_ * depth * c_out_ * shape_.groups / task_macs,
                                               1, pool.size() * int64_t{6});
    // What is larger is split, so that each core reads a part of it; then the other if need be.
    int64_t row_blocks = divide_up(rows_, block_rows), panel_blocks = 1;
    const auto split_rows = [&](int64_t others) {
      row_blocks = std::clamp<int64_t>(divide_up(wanted, others), row_blocks,
                                       std::max(row_blocks, divide_up(rows_, unit_rows)));
    };
    const auto split_panels = [&](int64_t others) {
      panel_blocks = std::clamp<int64_t>(divide_up(wanted, others), 1, panels);
    };
    if (rows_ > c_out_) {
      split_rows(shape_.groups);
      split_panels(row_blocks * shape_.groups);
    } else {
      split_panels(least);
      split_rows(panel_blocks * shape_.groups);
    }
    auto task = [&](int64_t i, int thread) {
      Part part;
      const int64_t panel_block = i % panel_blocks, rest = i / panel_blocks;
      const int64_t row_block = rest % row_blocks;
      part.group = rest / row_blocks;
      part.row_begin = rows_ * row_block / row_blocks;
      part.row_end = rows_ * (row_block + 1) / row_blocks;
      part.panel_begin = panels * panel_block / panel_blocks;
      part.panel_end = panels * (panel_block + 1) / panel_blocks;
      run_part(
          args, part,
          static_cast<std::byte*>(args.scratch) + static_cast<size_t>(thread) * thread_scratch());
    };
    run_near(pool, shape_.groups * row_blocks * panel_blocks, task);
  }

 private:
  struct Part {
    int64_t group, row_begin, row_end, panel_begin, panel_end;
  };

  // One thread's scratch: row pointers [segments][block_rows], sums [block_rows][panel], and
  // padded copies [block_rows][segments][length].
  size_t pointer_bytes() const {
    return static_cast<size_t>(segments_ * block_rows) * sizeof(float*);
  }
  size_t sum_bytes() const {
    return depth_blocks_ > 1
               ? static_cast<size_t>(block_rows * kernels_.max_vectors * kernels_.width) *
                     sizeof(float)
               : 0;
  }
  size_t copy_bytes() const {
    return by_rows_ ? static_cast<size_t>(block_rows * segments_ * length_) * sizeof(float) : 0;
  }
  size_t unpacked_bytes() const {
    return integers_ && !direct() ? static_cast<size_t>(block_segments_ * block_length_ *
                                                        kernels_.max_vectors * kernels_.width) *
                                        sizeof(float)
                                  : 0;
  }
  size_t thread_scratch() const {
    return (pointer_bytes() + sum_bytes() + copy_bytes() + unpacked_bytes() + 63) / 64 * 64;
  }
  bool direct() const { return segments_ == 1 && !by_rows_ && rows_ <= few_rows; }

  // Depth blocks: several whole segments, or parts of one.
  // Parts end where a scale does: after a multiple of `run`.
  void plan_depth(int64_t run) {
    if (segments_ * length_ <= block_depth * 3 / 2) {
      block_segments_ = segments_;
      block_length_ = length_;
    } else if (length_ <= block_depth * 3 / 2) {
      block_segments_ = std::clamp<int64_t>(block_depth / length_, 1, segments_);
      block_length_ = length_;
    } else {
      block_segments_ = 1;
      block_length_ = divide_up(length_, divide_up(length_, block_depth));
      block_length_ = divide_up(block_length_, run) * run;
    }
    depth_blocks_ = divide_up(segments_, block_segments_) * divide_up(length_, block_length_);
  }

  // The widest panels, but no narrow one at the end: 5 vectors are 3 + 2, not 4 + 1.
  void plan_panels() {
    int64_t left = divide_up(c_out_, kernels_.width), channel = 0;
    while (left > 0) {
      const int64_t count = divide_up(left, kernels_.max_vectors);
      const auto vectors = static_cast<int>(divide_up(left, count));
      panels_.push_back({vectors, channel, segments_ * length_ * channel});
      channel += vectors * kernels_.width;
      left -= vectors;
    }
    padded_channels_ = channel;
  }

  void keep_bias(const ConvProblem& p) {
    const ConvShape& s = shape_;
    const int64_t total = s.groups * padded_channels_ + (by_rows_ ? 0 : length_);
    constants_ = Buffer::allocate(static_cast<size_t>(total) * sizeof(float));
    auto* bias = reinterpret_cast<float*>(constants_->mutable_data());
    std::memset(bias, 0, constants_->size());
    bias_ = bias;
    zeros_ = bias + s.groups * padded_channels_;
    if (p.bias)
      for (int64_t g = 0; g < s.groups; ++g)
        std::memcpy(bias + g * padded_channels_, p.bias + g * c_out_,
                    static_cast<size_t>(c_out_) * sizeof(float));
  }

  std::shared_ptr<Buffer> pack(const ConvProblem& p) const {
    const ConvShape& s = shape_;
    const int64_t taps = s.kh * s.kw;
    auto packed = Buffer::allocate(static_cast<size_t>(s.groups * group_weights_) * sizeof(float));
    auto* weights = reinterpret_cast<float*>(packed->mutable_data());
    if (padded_channels_ != c_out_) std::memset(weights, 0, packed->size());
    const auto* from = static_cast<const float*>(p.weights);
    if (p.weights_by_input) {
      for (const Panel& panel : panels_) {
        const int64_t width = panel.vectors * kernels_.width;
        const auto channels = static_cast<size_t>(std::min(width, c_out_ - panel.channel));
        float* to = weights + panel.weights;
        for (int64_t k = 0; k < length_; ++k, to += width)
          std::memcpy(to, from + k * c_out_ + panel.channel, channels * sizeof(float));
      }
      return packed;
    }
    for (int64_t g = 0; g < s.groups; ++g)
      for (const Panel& panel : panels_) {
        const int64_t width = panel.vectors * kernels_.width;
        float* to = weights + g * group_weights_ + panel.weights;
        const int64_t channels = std::min(width, c_out_ - panel.channel);
        for (int64_t c = 0; c < channels; ++c) {
          const int64_t channel = g * c_out_ + panel.channel + c;
          const float* row = from + channel * c_in_ * taps;
          int64_t at = 0;  // in the packed order: depth blocks, segments, floats
          for_each_depth_block([&](int64_t first, int64_t count, int64_t offset, int64_t length) {
            for (int64_t segment = first; segment < first + count; ++segment)
              for (int64_t k = offset; k < offset + length; ++k, ++at) {
                const int64_t tap = by_rows_ ? segment * s.kw + k / c_in_ : segment;
                to[at * width + c] = row[k % c_in_ * taps + tap];
              }
          });
        }
      }
    return packed;
  }

  void pack_integers(const ConvProblem& p) {
    const ConvShape& s = shape_;
    std::vector<int64_t> depths, order;
    const int64_t taps = s.kh * s.kw;
    for_each_depth_block([&](int64_t first, int64_t count, int64_t offset, int64_t length) {
      depths.push_back(count * length);
      for (int64_t segment = first; segment < first + count; ++segment)
        for (int64_t k = offset; k < offset + length; ++k)
          order.push_back(k % c_in_ * taps + (by_rows_ ? segment * s.kw + k / c_in_ : segment));
    });
    std::vector<PackedWeights::Panel> panels;
    for (int64_t g = 0; g < s.groups; ++g)
      for (const Panel& panel : panels_) {
        const int64_t width = panel.vectors * kernels_.width;
        panels.push_back({g * c_out_ + panel.channel, std::min(width, c_out_ - panel.channel),
                          static_cast<int>(width)});
      }
    integers_ = std::make_unique<PackedWeights>(*p.integers, length_, std::move(depths));
    integers_->pack(p.weights, order, panels);
  }

  // f(first segment, segments, offset in each, length).
  template <class F>
  void for_each_depth_block(const F& f) const {
    for (int64_t segment = 0; segment < segments_; segment += block_segments_)
      for (int64_t offset = 0; offset < length_; offset += block_length_)
        f(segment, std::min(block_segments_, segments_ - segment), offset,
          std::min(block_length_, length_ - offset));
  }

  void point_at_rows(const float* x, const Part& part, const float** pointers,
                     float* copies) const {
    const ConvShape& s = shape_;
    x += part.group * c_in_;
    int64_t ox = part.row_begin % s.ow, oy = part.row_begin / s.ow % s.oh;
    int64_t n = part.row_begin / s.ow / s.oh;
    const int64_t rows = part.row_end - part.row_begin;
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t left = ox * s.stride_w - s.pad_left;
      for (int64_t ky = 0; ky < s.kh; ++ky) {
        const int64_t iy = oy * s.stride_h - s.pad_top + ky * s.dilation_h;
        const bool row_inside = iy >= 0 && iy < s.h;
        const int64_t line = (n * s.h + iy) * s.w;
        if (by_rows_) {
          const float*& pointer = pointers[ky * block_rows + r];
          if (row_inside && left >= 0 && left + s.kw <= s.w) {
            pointer = x + (line + left) * s.c_in;
            continue;
          }
          float* copy = copies + (r * s.kh + ky) * length_;
          pointer = copy;
          for (int64_t kx = 0; kx < s.kw; ++kx, copy += c_in_)
            for (int64_t c = 0; c < c_in_; ++c)
              copy[c] = row_inside && left + kx >= 0 && left + kx < s.w
                            ? x[(line + left + kx) * s.c_in + c]
                            : 0;
          continue;
        }
        for (int64_t kx = 0; kx < s.kw; ++kx) {
          const int64_t ix = left + kx * s.dilation_w;
          pointers[(ky * s.kw + kx) * block_rows + r] =
              row_inside && ix >= 0 && ix < s.w ? x + (line + ix) * s.c_in : zeros_;
        }
      }
      if (++ox == s.ow) {
        ox = 0;
        if (++oy == s.oh) oy = 0, ++n;
      }
    }
  }

  void run_part(const ConvArgs& args, const Part& part, std::byte* scratch) const {
    auto** pointers = reinterpret_cast<const float**>(scratch);
    auto* sums = reinterpret_cast<float*>(scratch + pointer_bytes());
    auto* copies = reinterpret_cast<float*>(scratch + pointer_bytes() + sum_bytes());
    auto* unpacked =
        reinterpret_cast<float*>(scratch + pointer_bytes() + sum_bytes() + copy_bytes());
    const auto* x = static_cast<const float*>(args.x);
    point_at_rows(x, part, pointers, copies);

    const float *x_end = x + shape_.n * shape_.h * shape_.w * shape_.c_in,
                *weights_end = weights_ + shape_.groups * group_weights_;
    const int64_t rows = part.row_end - part.row_begin;
    for (int64_t i = part.panel_begin; i < part.panel_end; ++i) {
      const Panel& panel = panels_[static_cast<size_t>(i)];
      const int64_t width = panel.vectors * kernels_.width;
      const int64_t first = part.group * c_out_ + panel.channel;
      const float* bias = bias_ + part.group * padded_channels_ + panel.channel;
      float* y = static_cast<float*>(args.y) + part.row_begin * shape_.c_out + first;
      const float* residual = nullptr;
      if (residual_)
        residual = static_cast<const float*>(args.residual) + part.row_begin * shape_.c_out + first;
      GemmF32Tile tile{};
      tile.a_step = block_rows;
      tile.weights = weights_ + part.group * group_weights_ + panel.weights;
      tile.round = round_;
      tile.slope = slope_;
      tile.lo = lo_;
      tile.hi = hi_;
      tile.channels = static_cast<int>(std::min(width, c_out_ - panel.channel));
      const int64_t tiles = divide_up(
          rows, integers_ && direct() ? PackedKernels::max_rows : kernels_.rows[panel.vectors]);
      int64_t depth_block = 0;
      for_each_depth_block([&](int64_t segment, int64_t count, int64_t offset, int64_t length) {
        tile.segments = count;
        tile.offset = offset;
        tile.length = length;
        PackedBlock block{};
        if (integers_) {
          const size_t number = static_cast<size_t>(part.group) * panels_.size();
          block =
              integers_->block(number + static_cast<size_t>(i), static_cast<size_t>(depth_block));
          if (!direct()) {
            packed_kernels_->unpack[integers_->four_bits()](block, panel.vectors, unpacked);
            tile.weights = unpacked;
          }
        }
        tile.last = ++depth_block == depth_blocks_;
        // The first tiles fetch the next block's weights, which else would be waited for; the
        // others the next pixels, or what is there already, which costs nothing.
        const int64_t floats = count * length * width, lines = count * length * 16;
        const bool more = !integers_ && tile.weights + 2 * floats <= weights_end;
        const bool fresh = pointwise_ && i == part.panel_begin;
        for (int64_t t = 0; t < tiles; ++t) {
          const int64_t r = rows * t / tiles, end = rows * (t + 1) / tiles;
          tile.ahead = tile.weights;
          if (more && t * lines < floats)
            tile.ahead += floats + t * lines;
          else if (fresh && x + (part.row_begin + end) * length_ + lines <= x_end)
            tile.ahead = x + (part.row_begin + end) * length_;
          float* sum = sums + r * width;
          tile.a = pointers + segment * block_rows + r;
          tile.start = depth_block == 1 ? bias : sum;
          tile.start_step = depth_block == 1 ? 0 : width;
          tile.y = tile.last ? y + r * shape_.c_out : sum;
          tile.y_step = tile.last ? shape_.c_out : width;
          tile.residual = residual ? residual + r * shape_.c_out : nullptr;
          if (integers_ && direct())
            packed_kernels_->gemm[integers_->four_bits()][panel.vectors][end - r](tile, block);
          else
            kernels_.gemm[panel.vectors][end - r](tile);
        }
        if (!integers_) tile.weights += floats;
      });
    }
  }

  const char* name_;
  Isa isa_;
  const ConvF32Kernels& kernels_;
  const PackedKernels* packed_kernels_;
  ConvShape shape_;
  bool residual_;
  HalfType round_;
  float slope_, lo_, hi_;
  int64_t c_in_, c_out_;       // of a group
  int64_t rows_;               // of the matrix product
  bool by_rows_;               // a segment is a row of the window
  bool pointwise_;             // rows lie in the input as they lie in the output
  int64_t segments_, length_;  // of a row's sum
  int64_t block_segments_, block_length_, depth_blocks_;
  std::vector<Panel> panels_;
  int64_t padded_channels_, group_weights_;  // of a group
  std::shared_ptr<Buffer> packed_;           // weights that are floats
  std::shared_ptr<Buffer> constants_;        // biases, zeros
  std::unique_ptr<PackedWeights> integers_;
  const float* weights_ = nullptr;  // not of integers: [group][panel][depth][width]
  const float* bias_;               // [group][padded_channels]
  const float* zeros_;              // a tap outside the image
};

}  // namespace

std::unique_ptr<ConvKernel> make_gemm_f32(const ConvProblem& problem, const char* name, Isa isa,
                                          const ConvF32Kernels& kernels,
                                          const PackedKernels* packed) {
  return std::make_unique<GemmF32>(problem, name, isa, kernels, packed);
}

}  // namespace octavo::cpu
