#include "cpu/taps.h"
#include "cpu/variant.h"

namespace modnas_fast {
namespace MODNAS_FAST_ISA {
namespace {

// kPixels neighbouring pixels' depthwise sums of one vector of channels to `to`, [kPixels, stride].
template <int kPixels, bool kRelu, typename Element>
MODNAS_FAST_INLINE void depthwise_pixels(const SeparableArguments& arguments, const Element* from, int64_t channel,
                                         float* to, int64_t stride) {
  const Source& source = arguments.source;
  const float* weights = arguments.depthwise_weights + channel;
  Vector sums[kPixels];
#pragma GCC unroll 8
  for (int p = 0; p < kPixels; ++p) sums[p] = load(arguments.depthwise_bias + channel);
  for (int64_t i = 0; i < arguments.kernel; ++i) {
    const Element* row = from + i * arguments.dilation * source.row_stride + channel;
    for (int64_t j = 0; j < arguments.kernel; ++j, weights += source.channels) {
      const Vector weight = load(weights);
      const Element* tap = row + j * arguments.dilation * source.pixel_stride;
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

template <bool kRelu, typename Element>
void depthwise_row(const SeparableArguments& arguments, int64_t row, int64_t column, int64_t count, float* to) {
  const Source& source = arguments.source;
  const int64_t reach = arguments.kernel / 2 * arguments.dilation;
  const Element* from = pixel_of<Element>(source, row - reach, column - reach);
  const int64_t stride = scratch_stride(source.channels);
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
  const Target& out = arguments.out;
  float* const staging = scratch + kSeparablePixels * scratch_stride(channels);
  for (int64_t row = window.row_begin; row < window.row_end; ++row) {
    for (int64_t column = window.column_begin; column < window.column_end; column += kSeparablePixels) {
      const int64_t rest = window.column_end - column, count = rest < kSeparablePixels ? rest : kSeparablePixels;
      with_element(arguments.source.storage, [&](auto element) {
        const auto depthwise = arguments.source.relu ? depthwise_row<true, decltype(element)>
                                                     : depthwise_row<false, decltype(element)>;
        depthwise(arguments, row, column, count, scratch);
      });
      const Source pixels = {scratch, Storage::kFloat32, 0, scratch_stride(channels), channels, false};
      TapsArguments pointwise = {&pixels, 1, arguments.weights, arguments.bias, out};
      pointwise.out.data = static_cast<char*>(out.data) +
                           (row * out.row_stride + column * out.pixel_stride) * element_bytes(out.storage);
      taps_row(pointwise, count, staging);
    }
  }
}

}  // namespace MODNAS_FAST_ISA
}  // namespace modnas_fast
