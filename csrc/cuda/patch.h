// A block's copy of its sources in shared memory: with the halo, zeros beyond the borders, rectified and interpolated.
//
// A row of a patch is a row of pieces of 16 bytes, a chunk of channels of a pixel each. A lane has the same pieces of
// every row of its warp, so that all it computes for one is where it begins, and a row later is a sum away.
#pragma once

#include "cuda/blocks.h"
#include "cuda/elements.h"
#include "cuda/tensor_core.h"

namespace modnas_fast::cuda {

__device__ __forceinline__ bool inside(int row, int column, int rows, int columns) {
  return static_cast<unsigned>(row) < static_cast<unsigned>(rows) &&
         static_cast<unsigned>(column) < static_cast<unsigned>(columns);
}

// Of this thread: calls one(column, chunk, to) for its pieces, where `to` is that of the patch's row of this warp. Pieces
// of the warp's next row lie rows_apart(patch) bytes further. `inverse` is that of `chunks`.
template <typename Do>
__device__ __forceinline__ void for_each_piece(const Patch& patch, int chunks, uint32_t inverse, int chunks_before,
                                               char* shared, const Do& one) {
  const int warp = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32);
  char* const row = shared + warp * patch.columns * patch.pixel_bytes + 16 * chunks_before;
#pragma unroll 1
  for (int piece = lane; piece < patch.columns * chunks; piece += 32) {
    const int column = divided(piece, inverse), chunk = piece - column * chunks;
    const int position = patch.stride == 1 ? column : column % 2 * (patch.columns / 2) + column / 2;
    one(column, chunk, row + position * patch.pixel_bytes + 16 * chunk);
  }
}

__device__ __forceinline__ int rows_apart(const Patch& patch) { return kWarps * patch.columns * patch.pixel_bytes; }

// As it is in memory, or ×2 by repeating it (`shift` 1). The copies are under way when this returns.
__device__ __forceinline__ void copy_pieces(const Source& source, const Patch& patch, const uint4* image, int shift,
                                            int first_row, int first_column, uint32_t inverse, int chunks_before,
                                            char* shared) {
  const int warp = static_cast<int>(threadIdx.x / 32), chunks = source.channels / kChunk;
  const int row_chunks = source.columns * chunks;
  const int64_t apart = static_cast<int64_t>(kWarps * patch.step >> shift) * row_chunks;  // exact: kWarps is even
  for_each_piece(patch, chunks, inverse, chunks_before, shared, [&](int column, int chunk, char* to) {
    const int column_from = first_column + column * patch.step;
    const int rows = inside(0, column_from, 1, source.columns << shift) ? source.rows << shift : 0;
    uint32_t address = shared_address(to);
    int row_from = first_row + warp * patch.step;
    const uint4* from = image + static_cast<int64_t>(row_from >> shift) * row_chunks;
    from += (column_from >> shift) * chunks + chunk;
#pragma unroll 1
    for (int row = warp; row < patch.rows; row += kWarps) {
      copy_chunk(address, from, inside(row_from, 0, rows, 1));
      row_from += kWarps * patch.step;
      from += apart;
      address += rows_apart(patch);
    }
  });
}

// ×2 by ¼ and ¾ of neighbours along each axis.
template <typename Type>
__device__ __forceinline__ void interpolate_pieces(const Source& source, const Patch& patch, const uint4* image,
                                                   int first_row, int first_column, uint32_t inverse,
                                                   int chunks_before, char* shared) {
  constexpr int kBatch = 2;  // rows whose loads are under way before the first is waited for
  const int warp = static_cast<int>(threadIdx.x / 32), chunks = source.channels / kChunk;
  const int row_chunks = source.columns * chunks;
  for_each_piece(patch, chunks, inverse, chunks_before, shared, [&](int column, int chunk, char* to) {
    const int column_from = first_column + column * patch.step;
    const bool column_inside = inside(0, column_from, 1, 2 * source.columns);
    const int near = column_from / 2;
    const int far = min(max(near + column_from % 2 * 2 - 1, 0), source.columns - 1);
    for (int row = warp; row < patch.rows; row += kBatch * kWarps) {
      uint4 corners[kBatch][4];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const int row_from = first_row + (row + i * kWarps) * patch.step;
        if (!column_inside || !inside(row_from, 0, 2 * source.rows, 1)) continue;
        const int row_far = min(max(row_from / 2 + row_from % 2 * 2 - 1, 0), source.rows - 1);
        const uint4* const near_row = image + static_cast<int64_t>(row_from / 2) * row_chunks + chunk;
        const uint4* const far_row = image + static_cast<int64_t>(row_far) * row_chunks + chunk;
        corners[i][0] = near_row[near * chunks];
        corners[i][1] = near_row[far * chunks];
        corners[i][2] = far_row[near * chunks];
        corners[i][3] = far_row[far * chunks];
      }
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        if (row + i * kWarps >= patch.rows) continue;
        uint4 value = make_uint4(0, 0, 0, 0);
        if (column_inside && inside(first_row + (row + i * kWarps) * patch.step, 0, 2 * source.rows, 1)) {
          float a[kChunk], b[kChunk], c[kChunk], d[kChunk];
          floats_of_chunk<Type>(corners[i][0], a);
          floats_of_chunk<Type>(corners[i][1], b);
          floats_of_chunk<Type>(corners[i][2], c);
          floats_of_chunk<Type>(corners[i][3], d);
#pragma unroll
          for (int k = 0; k < kChunk; ++k) {
            a[k] = 0.75f * (0.75f * a[k] + 0.25f * b[k]) + 0.25f * (0.75f * c[k] + 0.25f * d[k]);
          }
          value = chunk_of_floats<Type>(a);
        }
        *reinterpret_cast<uint4*>(to) = value;
        to += rows_apart(patch);
      }
    }
  });
}

// `first_row` and `first_column` are the patch's first pixel, in pixels of the interpolated source; `chunks_before` are
// those of a source beside it. Before the barrier behind which others read the patch, every thread has to call
// wait_for_copies().
template <typename Type>
__device__ __forceinline__ void fill_patch(const Source& source, const Patch patch, int64_t image, int first_row,
                                           int first_column, uint32_t inverse, int chunks_before, bool rectify,
                                           char* shared) {
  const int chunks = source.channels / kChunk;
  const uint4* const pixels =
      reinterpret_cast<const uint4*>(source.data) + image * source.rows * source.columns * chunks;
  if (source.interpolation == Interpolation::kBilinear) {
    interpolate_pieces<Type>(source, patch, pixels, first_row, first_column, inverse, chunks_before, shared);
  } else {
    const int shift = source.interpolation == Interpolation::kNearest ? 1 : 0;
    copy_pieces(source, patch, pixels, shift, first_row, first_column, inverse, chunks_before, shared);
  }
  if (!rectify) return;
  wait_for_copies();  // this thread's, which no other has to see before
  for_each_piece(patch, chunks, inverse, chunks_before, shared, [&](int, int, char* at) {
#pragma unroll 1
    for (int row = static_cast<int>(threadIdx.x / 32); row < patch.rows; row += kWarps, at += rows_apart(patch)) {
      *reinterpret_cast<uint4*>(at) = relu_chunk<Type>(*reinterpret_cast<const uint4*>(at));
    }
  });
}

}  // namespace modnas_fast::cuda
