#include "cpu/elements.h"
#include "cpu/variant.h"

namespace modnas_fast {
namespace MODNAS_FAST_ISA {
namespace {

// Eight channels side by side in every variant: their number is a multiple of that.
typedef float Eight __attribute__((vector_size(32)));
typedef uint32_t EightBits __attribute__((vector_size(32)));
typedef uint16_t EightHalves __attribute__((vector_size(16)));

MODNAS_FAST_INLINE void load_eight(const float* from, Eight& value) { std::memcpy(&value, from, sizeof value); }
MODNAS_FAST_INLINE void load_eight(const Bfloat16* from, Eight& value) {
  EightHalves bits;
  std::memcpy(&bits, from, sizeof bits);
  value = reinterpret_cast<Eight>(__builtin_convertvector(bits, EightBits) << 16);
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
        Eight sums = {};
        for (int64_t c = 0; c < source.channels; c += 8) {
          Eight value, weight;
          load_eight(h + c, value);
          load_eight(weights + c, weight);
          sums += (value < 0 ? Eight{} : value) * weight;
        }
        const float v = arguments.bias[image] + (((sums[0] + sums[4]) + (sums[1] + sums[5])) +
                                                 ((sums[2] + sums[6]) + (sums[3] + sums[7])));
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
