#include "cpu/elements.h"
#include "cpu/variant.h"

namespace modnas_fast {
namespace MODNAS_FAST_ISA {
namespace {

// Where output position p reads: ¾ of the nearer source and ¼ of the farther one, both clamped to 0…size − 1.
struct Mix {
  int64_t near, far;
};

MODNAS_FAST_INLINE Mix mix(int64_t position, int64_t size) {
  const int64_t near = position / 2, far = position % 2 != 0 ? near + 1 : near - 1;
  return {near, far < 0 ? 0 : far < size ? far : size - 1};
}

MODNAS_FAST_INLINE Vector blend(Vector near, Vector far) { return 0.75f * near + 0.25f * far; }

template <typename Element>
void upsample_elements(const UpsampleArguments& arguments, const Window& window) {
  const Source& source = arguments.source;
  const Target& out = arguments.out;
  for (int64_t y = window.row_begin; y < window.row_end; ++y) {
    const Mix rows = mix(y, out.rows / 2);
    const Element* near_row = pixel_of<Element>(source, rows.near, 0);
    const Element* far_row = pixel_of<Element>(source, rows.far, 0);
    for (int64_t x = window.column_begin; x < window.column_end; ++x) {
      const Mix columns = mix(x, out.columns / 2);
      const int64_t near = columns.near * source.pixel_stride, far = columns.far * source.pixel_stride;
      Element* to = pixel_of<Element>(out, y, x);
      for (int64_t c = 0; c < out.channels; c += kLanes) {
        Vector value = load(near_row + near + c);
        if (arguments.bilinear) {
          value = blend(blend(value, load(far_row + near + c)),
                        blend(load(near_row + far + c), load(far_row + far + c)));
        }
        store_channels(to + c, value, out.channels - c);
      }
    }
  }
}

}  // namespace

void upsample(const UpsampleArguments& arguments, const Window& window) {
  with_element(arguments.out.storage,
               [&](auto element) { upsample_elements<decltype(element)>(arguments, window); });
}

}  // namespace MODNAS_FAST_ISA
}  // namespace modnas_fast
