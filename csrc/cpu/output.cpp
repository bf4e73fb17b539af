#include "cpu/variant.h"
#include "cpu/vector.h"

namespace modnas_fast {
namespace MODNAS_FAST_ISA {

void output(const OutputArguments& arguments, const Window& window) {
  const Source& source = arguments.source;
  const Target& out = arguments.out;
  for (int64_t y = window.row_begin; y < window.row_end; ++y) {
    for (int64_t x = window.column_begin; x < window.column_end; ++x) {
      const float* h = source.data + y * source.row_stride + x * source.pixel_stride;
      const int64_t pixel = y * out.row_stride + x * out.pixel_stride;
      for (int64_t image = 0; image < arguments.image_channels; ++image) {
        const float* weights = arguments.weights + image * source.channels;
        // Four channels side by side wherever a vector is longer: 8 channels are a multiple of that everywhere.
        typedef float Four __attribute__((vector_size(16), aligned(4)));
        Four sums = {};
        for (int64_t c = 0; c < source.channels; c += 4) {
          const Four value = *reinterpret_cast<const Four*>(h + c);
          sums += (value < 0 ? Four{} : value) * *reinterpret_cast<const Four*>(weights + c);
        }
        const float v = arguments.bias[image] + ((sums[0] + sums[1]) + (sums[2] + sums[3]));
        out.data[pixel + image] = v + arguments.delta * (arguments.noisy[pixel + image] - v);
      }
      for (int64_t channel = arguments.image_channels; channel < out.channels; ++channel) out.data[pixel + channel] = 0;
    }
  }
}

}  // namespace MODNAS_FAST_ISA
}  // namespace modnas_fast
