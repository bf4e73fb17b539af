#include "cuda/packing.h"

#include <cstring>

#include "cuda/elements.h"
#include "cuda/launchers.h"

namespace modnas_fast::cuda {

namespace {

template <typename Type>
char* pack_part(const float* matrix, int rows, int channels, char* packed) {
  const auto value = [&](int row, int column) { return row < rows ? matrix[int64_t{row} * channels + column] : 0.0f; };
  for (int step = 0; step < steps_of_rows(rows); ++step) {
    for (int column = 0; column < channels; column += 8) {
      for (int lane = 0; lane < 32; ++lane) {
        for (int eight = 0; eight < 2; ++eight) {
          const int row = step * kStep + eight * 8 + lane % 4 * 2;
          const uint32_t pair = Type::pair(value(row, column + lane / 4), value(row + 1, column + lane / 4));
          std::memcpy(packed, &pair, sizeof(pair));
          packed += sizeof(pair);
        }
      }
    }
  }
  return packed;
}

}  // namespace

int64_t fragment_bytes(int rows, int shortcut_rows, int channels) {
  return int64_t{steps_of_rows(rows) + steps_of_rows(shortcut_rows)} * (channels / 8) * kFragmentBytes +
         fragment_slack(channels);
}

template <typename Type>
void pack_fragments(const float* matrix, int rows, int shortcut_rows, int channels, char* packed) {
  packed = pack_part<Type>(matrix, rows, channels, packed);
  packed = pack_part<Type>(matrix + int64_t{rows} * channels, shortcut_rows, channels, packed);
  std::memset(packed, 0, fragment_slack(channels));
}

template void pack_fragments<Float16>(const float*, int, int, int, char*);
template void pack_fragments<Bfloat16>(const float*, int, int, int, char*);

}  // namespace modnas_fast::cuda
