// A block's copy of its sources in shared memory: with the halo, zeros beyond the borders, rectified and interpolated.
#pragma once

#include "cuda/blocks.h"
#include "cuda/elements.h"

namespace modnas_fast::cuda {

// A thread's walk over [rows, columns, chunks] in steps of a block's threads, without a division a step.
class Walk {
 public:
  __device__ __forceinline__ Walk(int columns, int chunks)
      : columns_(columns), chunks_(chunks), step_chunk_(kThreads % chunks), step_column_(kThreads / chunks % columns),
        step_row_(kThreads / chunks / columns) {
    const int thread = static_cast<int>(threadIdx.x);
    chunk = thread % chunks;
    column = thread / chunks % columns;
    row = thread / chunks / columns;
  }
  __device__ __forceinline__ void next() {
    chunk += step_chunk_;
    column += step_column_;
    row += step_row_;
    if (chunk >= chunks_) {
      chunk -= chunks_;
      ++column;
    }
    if (column >= columns_) {
      column -= columns_;
      ++row;
    }
  }
  int row, column, chunk;

 private:
  int columns_, chunks_, step_chunk_, step_column_, step_row_;
};

__device__ __forceinline__ uint4 read_chunk(const Source& source, int64_t image, int row, int column, int chunk) {
  const int64_t pixel = (image * source.rows + row) * source.columns + column;
  // Not by __ldg: while this launch begins, the one before may still be writing.
  return reinterpret_cast<const uint4*>(source.data)[pixel * (source.channels / kChunk) + chunk];
}

__device__ __forceinline__ bool inside(int row, int column, int rows, int columns) {
  return static_cast<unsigned>(row) < static_cast<unsigned>(rows) &&
         static_cast<unsigned>(column) < static_cast<unsigned>(columns);
}

// The position (row, column) of a twice as large image: ¼ and ¾ of its neighbours along each axis.
template <typename Type>
__device__ __forceinline__ uint4 read_bilinear(const Source& source, int64_t image, int row, int column, int chunk) {
  const int row0 = row / 2, column0 = column / 2;
  const int row1 = min(max(row0 + row % 2 * 2 - 1, 0), source.rows - 1);
  const int column1 = min(max(column0 + column % 2 * 2 - 1, 0), source.columns - 1);
  const uint4 near_near = read_chunk(source, image, row0, column0, chunk);
  const uint4 near_far = read_chunk(source, image, row0, column1, chunk);
  const uint4 far_near = read_chunk(source, image, row1, column0, chunk);
  const uint4 far_far = read_chunk(source, image, row1, column1, chunk);
  float a[kChunk], b[kChunk], c[kChunk], d[kChunk];
  floats_of_chunk<Type>(near_near, a);
  floats_of_chunk<Type>(near_far, b);
  floats_of_chunk<Type>(far_near, c);
  floats_of_chunk<Type>(far_far, d);
#pragma unroll
  for (int i = 0; i < kChunk; ++i) {
    a[i] = 0.75f * (0.75f * a[i] + 0.25f * b[i]) + 0.25f * (0.75f * c[i] + 0.25f * d[i]);
  }
  return chunk_of_floats<Type>(a);
}

// `first_row` and `first_column` are the patch's first pixel, in pixels of the interpolated source; `chunks_before` are
// those of a source beside it. Several loads are under way before the first is waited for.
template <typename Type, int kBatch, typename Read>
__device__ __forceinline__ void fill(const Source& source, const Patch& patch, int rows, int columns, int first_row,
                                     int first_column, int chunks_before, bool rectify, char* shared,
                                     const Read& read) {
  Walk walk(patch.columns, source.channels / kChunk);
  const int columns_apart = patch.columns / patch.stride;
  while (walk.row < patch.rows) {
    uint4 values[kBatch];
    int places[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      places[i] = -1;
      values[i] = make_uint4(0, 0, 0, 0);
      if (walk.row >= patch.rows) continue;
      const int row = first_row + walk.row * patch.step, column = first_column + walk.column * patch.step;
      if (inside(row, column, rows, columns)) values[i] = read(row, column, walk.chunk);
      const int position = patch.stride == 1 ? walk.column : walk.column % 2 * columns_apart + walk.column / 2;
      places[i] = (walk.row * patch.columns + position) * patch.pixel_bytes + 16 * (chunks_before + walk.chunk);
      walk.next();
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (places[i] < 0) continue;
      *reinterpret_cast<uint4*>(shared + places[i]) = rectify ? relu_chunk(values[i]) : values[i];
    }
  }
}

template <typename Type>
__device__ __forceinline__ void fill_patch(const Source& source, const Patch& patch, int64_t image, int first_row,
                                           int first_column, int chunks_before, bool rectify, char* shared) {
  if (source.interpolation == Interpolation::kBilinear) {
    fill<Type, 2>(source, patch, 2 * source.rows, 2 * source.columns, first_row, first_column, chunks_before, rectify,
                  shared, [&](int row, int column, int chunk) {
                    return read_bilinear<Type>(source, image, row, column, chunk);
                  });
  } else {
    const int shift = source.interpolation == Interpolation::kNearest ? 1 : 0;
    fill<Type, 4>(source, patch, source.rows << shift, source.columns << shift, first_row, first_column, chunks_before,
                  rectify, shared, [&](int row, int column, int chunk) {
                    return read_chunk(source, image, row >> shift, column >> shift, chunk);
                  });
  }
}

}  // namespace modnas_fast::cuda
