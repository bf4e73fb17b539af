// Where every tensor of a stage lies for one image size.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/kernels.h"
#include "prepare.h"

namespace modnas_fast {

struct Placement {
  int64_t rows, columns, channels;  // channels as they lie in memory
  int64_t before;                   // zeroed rows above and columns to the left
  int64_t rows_after, columns_after;
  Storage storage;
  int64_t offset;  // of the whole, halo included, in bytes from the arena's start
  bool rolling;    // not there as a whole: in two bands of kBandRows that take turns, each with a halo of its own

  int64_t pixel_stride() const { return channels; }
  int64_t row_stride() const { return (before + columns + columns_after) * channels; }
  int64_t bytes() const;                                                             // halo and slack included
  int64_t origin() const { return before * row_stride() + before * pixel_stride(); }  // elements before pixel (0, 0)
  Placement band(int64_t row) const;  // of a rolling tensor: where the kBandRows from `row` on lie
};

// Rows of a band: layers that work in place, and those around a rolling tensor, are computed band by band.
constexpr int64_t kBandRows = 32;

struct Plan {
  int64_t rows, columns;              // of the image, padded to multiples of 8
  std::vector<Placement> tensors;     // by number; 0 and the last one lie in image buffers instead
  int64_t image_offsets[3];           // bytes; y, and two for x in turn; all placed as tensors[0] is
  int64_t bytes;                      // of the arena
  std::vector<bool> in_place;         // a layer each: its output overwrites an input, kBandRows behind what is read
  std::vector<double> layer_seconds;  // sums
  int64_t measured = 0;               // stages run
};

// Images are float32; all other tensors are stored as `storage`. Of a network's one stage only the noisy image is alive
// all the time; between several stages a second one is, and a third one, for the stage's result.
Plan make_plan(const PreparedStage& stage, Storage storage, int64_t rows, int64_t columns, bool only_stage);

// Outputs of a Winograd tile along one axis.
inline int64_t winograd_outputs(int kernel) { return kernel == 3 ? 4 : 2; }

}  // namespace modnas_fast
