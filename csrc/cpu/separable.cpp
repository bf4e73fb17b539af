#include "cpu/taps.h"
#include "cpu/variant.h"

namespace modnas_fast {
namespace MODNAS_FAST_ISA {
namespace {

// kPixels neighbouring pixels' depthwise sums of one vector of channels to `to`, [kPixels, stride].
template <int kPixels, bool kRelu>
MODNAS_FAST_INLINE void depthwise_pixels(const SeparableArguments& arguments, const float* from, int64_t channel,
                                         float* to, int64_t stride) {
  const Source& source = arguments.source;
  const float* weights = arguments.depthwise_weights + channel;
  Vector sums[kPixels];
#pragma GCC unroll 8
  for (int p = 0; p < kPixels; ++p) sums[p] = load(arguments.depthwise_bias + channel);
  for (int64_t i = 0; i < arguments.kernel; ++i) {
    const float* row = from + i * arguments.dilation * source.row_stride + channel;
    for (int64_t j = 0; j < arguments.kernel; ++j, weights += source.channels) {
      const Vector weight = load(weights);
      const float* tap = row + j * arguments.dilation * source.pixel_stride;
#pragma GCC unroll 8
      for (int p = 0; p < kPixels; ++p) {
        const Vector value = load(tap + p * source.pixel_stride);
        sums[p] += weight * (kRelu ? relu(value) : value);
      }
    }
  }
#pragma GCC unroll 8
  for (int p = 0; p < kPixels; ++p) store(to + p * stride + channel, sums[p]);
}

template <bool kRelu>
void depthwise_row(const SeparableArguments& arguments, int64_t row, int64_t column, int64_t count, float* to) {
  const Source& source = arguments.source;
  const int64_t reach = arguments.kernel / 2 * arguments.dilation;
  const float* from = source.data + (row - reach) * source.row_stride + (column - reach) * source.pixel_stride;
  const int64_t stride = separable_stride(source.channels);
  int64_t pixel = 0;
  for (; pixel + 4 <= count; pixel += 4) {
    for (int64_t channel = 0; channel < source.channels; channel += kLanes) {
      depthwise_pixels<4, kRelu>(arguments, from + pixel * source.pixel_stride, channel, to + pixel * stride, stride);
    }
  }
  for (; pixel < count; ++pixel) {
    for (int64_t channel = 0; channel < source.channels; channel += kLanes) {
      depthwise_pixels<1, kRelu>(arguments, from + pixel * source.pixel_stride, channel, to + pixel * stride, stride);
    }
  }
}

}  // namespace

void separable(const SeparableArguments& arguments, float* scratch, const Window& window) {
  const int64_t channels = arguments.source.channels;
  for (int64_t row = window.row_begin; row < window.row_end; ++row) {
    for (int64_t column = window.column_begin; column < window.column_end; column += kSeparablePixels) {
      const int64_t rest = window.column_end - column, count = rest < kSeparablePixels ? rest : kSeparablePixels;
      if (arguments.source.relu) {
        depthwise_row<true>(arguments, row, column, count, scratch);
      } else {
        depthwise_row<false>(arguments, row, column, count, scratch);
      }
      const Source pixels = {scratch, 0, separable_stride(channels), channels, false};
      TapsArguments pointwise = {&pixels, 1, arguments.weights, arguments.bias, arguments.out};
      pointwise.out.data += row * arguments.out.row_stride + column * arguments.out.pixel_stride;
      taps_window(pointwise, {0, 1, 0, count});
    }
  }
}

}  // namespace MODNAS_FAST_ISA
}  // namespace modnas_fast
