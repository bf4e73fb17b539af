#include "cpu/taps.h"

#include "cpu/variant.h"

namespace modnas_fast {
namespace MODNAS_FAST_ISA {
namespace {

bool is_copied(const Source& tap) { return tap.relu || tap.storage != Storage::kFloat32; }

// `source` from pixel (row, column) on.
Source from_pixel(Source source, int64_t row, int64_t column) {
  source.data = static_cast<const char*>(source.data) +
                (row * source.row_stride + column * source.pixel_stride) * element_bytes(source.storage);
  return source;
}

}  // namespace

void taps(const TapsArguments& arguments, float* scratch, const Window& window) {
  const Target& out = arguments.out;
  bool as_it_is = out.storage == Storage::kFloat32;
  for (int64_t t = 0; t < arguments.num_taps; ++t) as_it_is = as_it_is && !is_copied(arguments.taps[t]);
  if (as_it_is) return taps_window(arguments, window);
  // Every value is multiplied many times: a rectified float32 copy that stays in the L1 cache costs next to nothing.
  Source sources[kMostTaps];
  TapsArguments part = arguments;
  part.taps = sources;
  float* const copies = scratch + kTapsPixels * scratch_stride(out.channels);
  for (int64_t row = window.row_begin; row < window.row_end; ++row) {
    for (int64_t column = window.column_begin; column < window.column_end; column += kTapsPixels) {
      const int64_t rest = window.column_end - column, count = rest < kTapsPixels ? rest : kTapsPixels;
      float* to = copies;
      for (int64_t t = 0; t < arguments.num_taps; ++t) {
        sources[t] = from_pixel(arguments.taps[t], row, column);
        if (!is_copied(sources[t])) continue;
        copy_tap(sources[t], count, to);
        sources[t].data = to;
        to += taps_span(sources[t].pixel_stride, sources[t].channels);
      }
      part.out.data = static_cast<char*>(out.data) +
                      (row * out.row_stride + column * out.pixel_stride) * element_bytes(out.storage);
      taps_row(part, count, scratch);
    }
  }
}

}  // namespace MODNAS_FAST_ISA
}  // namespace modnas_fast
