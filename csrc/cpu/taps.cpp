#include "cpu/taps.h"

#include "cpu/variant.h"

namespace modnas_fast {
namespace MODNAS_FAST_ISA {
namespace {

// What `count` neighbouring output pixels read of a tap, rectified, to `to`; returns the end.
float* rectify(const float* from, const Source& tap, int64_t count, float* to) {
  const int64_t floats = (count - 1) * tap.pixel_stride + tap.channels;
  for (int64_t i = 0; i < floats; i += kLanes) store(to + i, relu(load(from + i)));
  return to + taps_span(tap.pixel_stride, tap.channels);
}

}  // namespace

void taps(const TapsArguments& arguments, float* scratch, const Window& window) {
  bool any = false;
  for (int64_t t = 0; t < arguments.num_taps; ++t) any = any || arguments.taps[t].relu;
  if (!any) return taps_window(arguments, window);
  // Every value is multiplied many times: rectifying it in a copy that stays in the L1 cache costs next to nothing.
  Source sources[kMostTaps];
  TapsArguments part = arguments;
  part.taps = sources;
  for (int64_t row = window.row_begin; row < window.row_end; ++row) {
    for (int64_t column = window.column_begin; column < window.column_end; column += kTapsPixels) {
      const int64_t rest = window.column_end - column, count = rest < kTapsPixels ? rest : kTapsPixels;
      float* to = scratch;
      for (int64_t t = 0; t < arguments.num_taps; ++t) {
        const Source& tap = arguments.taps[t];
        const float* from = tap.data + row * tap.row_stride + column * tap.pixel_stride;
        sources[t] = tap;
        sources[t].data = tap.relu ? to : from;
        if (tap.relu) to = rectify(from, tap, count, to);
      }
      part.out.data = arguments.out.data + row * arguments.out.row_stride + column * arguments.out.pixel_stride;
      taps_window(part, {0, 1, 0, count});
    }
  }
}

}  // namespace MODNAS_FAST_ISA
}  // namespace modnas_fast
