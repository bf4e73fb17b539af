#include "training.h"

#include <algorithm>
#include <cstring>

#include "memory.h"
#include "team.h"

namespace modnas_fast {

namespace {

constexpr int64_t kTasksAThread = 8;  // row-wise kernels: enough to balance, few enough to be worth taking
constexpr int64_t kOutputs = 4;   // a Winograd tile's, both ways
constexpr int64_t kPage = 1024;  // floats

int64_t round_up(int64_t size, int64_t to) { return (size + to - 1) / to * to; }

// The calling thread's own memory, kept for its next call; what was in it is lost.
float* memory(int64_t floats) {
  thread_local Arena arena;
  arena.reserve(floats * static_cast<int64_t>(sizeof(float)));
  return reinterpret_cast<float*>(arena.data());
}

int64_t tiles_of(const ConvolutionArguments& arguments) {
  const Images& size = arguments.size;
  return size.images * ((size.rows + kOutputs - 1) / kOutputs) * ((size.columns + kOutputs - 1) / kOutputs);
}

int64_t transformed_size(const ConvolutionArguments& arguments, const Kernels& kernels) {
  const int64_t points = kOutputs + arguments.kernel - 1;
  return points * points * arguments.channels_in * round_up(arguments.channels_out, kernels.lanes);
}

int64_t scratch_size(const ConvolutionArguments& arguments) {
  return round_up(convolution_scratch(arguments.kernel, arguments.channels_in, arguments.channels_out), kPage);
}

// The tasks' sums, `count` of `floats`, into the first.
void add_up(float* sums, int64_t count, int64_t floats) {
  for (int64_t other = 1; other < count; ++other) {
    for (int64_t i = 0; i < floats; ++i) sums[i] += sums[other * floats + i];
  }
}

}  // namespace

void convolution(ConvolutionArguments arguments, const Kernels& kernels, int threads) {
  const int64_t scratch = scratch_size(arguments), weights = round_up(transformed_size(arguments, kernels), kPage);
  float* transformed = memory(weights + threads * scratch);
  kernels.training->transform_weights(arguments, arguments.weights, transformed);
  arguments.weights = transformed;
  const int64_t tiles = tiles_of(arguments);
  run_in_team(threads, (tiles + kTrainingTiles - 1) / kTrainingTiles, [&](int64_t run, int thread) {
    const int64_t begin = run * kTrainingTiles;
    kernels.training->convolution(arguments, transformed + weights + thread * scratch, begin,
                          std::min(begin + kTrainingTiles, tiles));
  });
}

void convolution_dweight(const ConvolutionArguments& arguments, float* dweight, float* dbias, const Kernels& kernels,
                         int threads) {
  const int64_t tiles = tiles_of(arguments), scratch = scratch_size(arguments);
  const int64_t weights = transformed_size(arguments, kernels);
  const int64_t floats = weights + round_up(arguments.channels_out, kernels.lanes);
  const int64_t runs = (tiles + kTrainingTiles - 1) / kTrainingTiles, parts = std::min<int64_t>(threads, runs);
  float* sums = memory(round_up(parts * floats, kPage) + threads * scratch);
  float* scratches = sums + round_up(parts * floats, kPage);
  run_in_team(threads, parts, [&](int64_t part, int thread) {
    float* own = sums + part * floats;
    std::memset(own, 0, floats * sizeof(float));
    for (int64_t run = runs * part / parts; run < runs * (part + 1) / parts; ++run) {
      const int64_t begin = run * kTrainingTiles;
      kernels.training->convolution_dweight(arguments, scratches + thread * scratch, begin,
                                            std::min(begin + kTrainingTiles, tiles), own, own + weights);
    }
  });
  add_up(sums, parts, floats);
  kernels.training->transform_weights_gradient(arguments, sums, dweight);
  std::copy(sums + weights, sums + weights + arguments.channels_out, dbias);
}

void depthwise(const DepthwiseArguments& arguments, const Kernels& kernels, int threads) {
  const int64_t rows = arguments.size.images * arguments.size.rows;
  const int64_t chunks = std::min(rows, threads * kTasksAThread);
  run_in_team(threads, chunks, [&](int64_t chunk, int) {
    kernels.training->depthwise(arguments, rows * chunk / chunks, rows * (chunk + 1) / chunks);
  });
}

void depthwise_dweight(const DepthwiseArguments& arguments, float* dweight, const Kernels& kernels, int threads) {
  const int64_t rows = arguments.size.images * arguments.size.rows;
  const int64_t floats = arguments.kernel * arguments.kernel * arguments.channels;
  const int64_t parts = std::min<int64_t>(rows, threads);
  float* sums = memory(parts * floats);
  run_in_team(threads, parts, [&](int64_t part, int) {
    float* own = sums + part * floats;
    std::memset(own, 0, floats * sizeof(float));
    kernels.training->depthwise_dweight(arguments, rows * part / parts, rows * (part + 1) / parts, own);
  });
  add_up(sums, parts, floats);
  std::copy(sums, sums + floats, dweight);
}

}  // namespace modnas_fast
