#include "image.h"

#include <algorithm>
#include <cstring>

namespace modnas_fast {

void read_image(const ImageView<const float>& from, int64_t channels, int64_t rows, int64_t columns,
                const Placement& place, float* to) {
  std::memset(to, 0, place.bytes());
  for (int64_t y = 0; y < place.rows; ++y) {
    for (int64_t channel = 0; channel < channels; ++channel) {
      const float* row = from.data + channel * from.channel_stride + std::min(y, rows - 1) * from.row_stride;
      float* out = to + place.origin() + y * place.row_stride() + channel;
      for (int64_t x = 0; x < columns; ++x) out[x * place.channels] = row[x * from.column_stride];
      for (int64_t x = columns; x < place.columns; ++x) out[x * place.channels] = out[(columns - 1) * place.channels];
    }
  }
}

void write_image(const float* from, const Placement& place, int64_t channels, const Window& window,
                 const ImageView<float>& to) {
  for (int64_t y = window.row_begin; y < window.row_end; ++y) {
    for (int64_t channel = 0; channel < channels; ++channel) {
      const float* row = from + place.origin() + y * place.row_stride() + channel;
      float* out = to.data + channel * to.channel_stride + (y - window.row_begin) * to.row_stride;
      for (int64_t x = window.column_begin; x < window.column_end; ++x) {
        out[(x - window.column_begin) * to.column_stride] = row[x * place.channels];
      }
    }
  }
}

void zero_halo(const Placement& place, void* memory) {
  const int64_t size = element_bytes(place.storage), stride = place.row_stride() * size;
  const int64_t left = place.before * place.channels * size, right = place.columns_after * place.channels * size;
  std::memset(memory, 0, place.before * stride);
  char* row = static_cast<char*>(memory) + place.before * stride;
  for (int64_t y = 0; y < place.rows; ++y, row += stride) {
    std::memset(row, 0, left);
    std::memset(row + stride - right, 0, right);
  }
  std::memset(row, 0, place.rows_after * stride);
}

void join_bands(const Placement& tensor, int64_t row, char* memory) {
  const Placement band = tensor.band(row);
  zero_halo(band, memory + band.offset);
  if (row == 0) return;
  const Placement previous = tensor.band(row - kBandRows);
  const int64_t stride = tensor.row_stride() * element_bytes(tensor.storage);
  char *above = memory + previous.offset, *below = memory + band.offset;  // each with its halo
  std::memcpy(below, above + kBandRows * stride, tensor.before * stride);
  std::memcpy(above + (tensor.before + kBandRows) * stride, below + tensor.before * stride,
              std::min(tensor.rows_after, band.rows) * stride);
}

}  // namespace modnas_fast
