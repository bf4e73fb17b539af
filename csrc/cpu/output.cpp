#include "cpu/elements.h"
#include "cpu/variant.h"

namespace modnas_fast {
namespace MODNAS_FAST_ISA {
namespace {

// Four channels side by side wherever a vector is longer: 8 channels are a multiple of that everywhere.
typedef float Four __attribute__((vector_size(16)));
typedef uint32_t FourBits __attribute__((vector_size(16)));
typedef uint16_t FourHalves __attribute__((vector_size(8)));

MODNAS_FAST_INLINE Four load_four(const float* from) {
  Four value;
  std::memcpy(&value, from, sizeof value);
  return value;
}
MODNAS_FAST_INLINE Four load_four(const Bfloat16* from) {
  FourHalves bits;
  std::memcpy(&bits, from, sizeof bits);
  return reinterpret_cast<Four>(__builtin_convertvector(bits, FourBits) << 16);
}

template <typename Element>
void output_elements(const OutputArguments& arguments, const Window& window) {
  const Source& source = arguments.source;
  const Target& out = arguments.out;
  for (int64_t y = window.row_begin; y < window.row_end; ++y) {
    for (int64_t x = window.column_begin; x < window.column_end; ++x) {
      const Element* h = pixel_of<Element>(source, y, x);
      float* pixel = pixel_of<float>(out, y, x);
      const float* noisy = arguments.noisy + y * out.row_stride + x * out.pixel_stride;
      for (int64_t image = 0; image < arguments.image_channels; ++image) {
        const float* weights = arguments.weights + image * source.channels;
        Four sums = {};
        for (int64_t c = 0; c < source.channels; c += 4) {
          const Four value = load_four(h + c);
          sums += (value < 0 ? Four{} : value) * load_four(weights + c);
        }
        const float v = arguments.bias[image] + ((sums[0] + sums[1]) + (sums[2] + sums[3]));
        pixel[image] = v + arguments.delta * (noisy[image] - v);
      }
      for (int64_t channel = arguments.image_channels; channel < out.channels; ++channel) pixel[channel] = 0;
    }
  }
}

}  // namespace

void output(const OutputArguments& arguments, const Window& window) {
  with_element(arguments.source.storage,
               [&](auto element) { output_elements<decltype(element)>(arguments, window); });
}

}  // namespace MODNAS_FAST_ISA
}  // namespace modnas_fast
