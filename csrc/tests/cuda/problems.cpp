#include "problems.h"

#include <array>
#include <cstdio>
#include <set>
#include <tuple>

#include "cuda/blocks.h"

namespace modnas_fast::cuda {

namespace {

constexpr int kWidths = 9;  // multiples of 8, up to 72

int random_width() { return 8 * (1 + random_below(kWidths)); }

Interpolation random_interpolation() { return static_cast<Interpolation>(random_below(3)); }

ConvolutionProblem random_convolution() {
  ConvolutionProblem problem;
  problem.images = 1 + random_below(2);
  problem.rows = 1 + random_below(20);
  problem.columns = 1 + random_below(36);
  problem.taps = static_cast<Taps>(random_below(4));
  problem.kernel = problem.taps == Taps::kSquare ? 1 + random_below(3) * 2 : 3;
  problem.stride = problem.taps == Taps::kSquare ? 1 + random_below(2) : 1;
  problem.channels[0] = random_width();
  if (random_below(3) == 0) problem.channels[1] = random_width();
  for (Interpolation& interpolation : problem.interpolations) interpolation = random_interpolation();
  problem.out_channels = random_width();
  problem.relu = random_below(2) == 0;
  problem.relu_out = random_below(2) == 0;
  if (random_below(3) == 0) problem.shortcut_channels = random_width();
  if (random_below(3) == 0 && problem.out_channels <= 48) {
    problem.image_channels = 1 + 2 * random_below(2);
    problem.keep = random_below(2) == 0;
  }
  return problem;
}

using Shape = std::tuple<int, int, int>;  // tiles, split, columns

std::set<Shape> used;

Shape shape_of(const Convolution& arguments) {
  Limits limits;
  Blocks blocks = {};
  if (current_limits(limits) == cudaSuccess) choose_blocks(arguments, limits, blocks);
  return {blocks.tiles, 1 << blocks.split_shift, blocks.columns};
}

// A small problem for every shape that blocks can have: found by trying sizes and devices.
std::vector<ConvolutionProblem> problems_of_every_shape() {
  std::vector<ConvolutionProblem> problems;
  std::set<Shape> found;
  const int before = emulation::device.processors;
  for (int width = 8; width <= 8 * kMostColumns; width += 8) {
    for (const auto& [rows, columns] : {std::pair{2, 8}, {4, 8}, {8, 8}, {8, 24}, {8, 48}, {16, 16}, {16, 48}}) {
      for (int choice = 0; choice < 16; ++choice) {
        const int processors = std::array{1, 2, 3, 4, 6, 8, 12, 2000}[choice / 2];
        ConvolutionProblem problem;
        if (choice % 2 != 0) problem.channels[0] = 72;  // longer sums are shared by more warps
        problem.rows = rows;
        problem.columns = columns;
        problem.out_channels = width;
        problem.processors = emulation::device.processors = processors;
        Convolution arguments = {};
        arguments.images = arguments.stride = arguments.scale = arguments.num_phases = 1;
        arguments.sources[0].channels = problem.channels[0];
        arguments.out = {nullptr, rows, columns, width, true};
        for (int tap = 0; tap < 9; ++tap) arguments.phases[0].taps[tap] = {int8_t(tap / 3 - 1), int8_t(tap % 3 - 1)};
        arguments.phases[0].num_taps = 9;
        if (found.insert(shape_of(arguments)).second) problems.push_back(problem);
      }
    }
  }
  emulation::device.processors = before;
  return problems;
}

}  // namespace

std::vector<ConvolutionProblem> convolution_problems(bool fewer) {
  std::vector<ConvolutionProblem> problems;
  const auto add = [&](const auto& change) {
    ConvolutionProblem problem;
    change(problem);
    problems.push_back(problem);
  };
  for (int side : {1, 2, 16}) {
    add([&](auto& p) { p.rows = side, p.columns = side, p.kernel = 5, p.images = 2; });
  }
  add([](auto& p) { p.kernel = 2, p.stride = 2, p.relu = false; });
  add([](auto& p) { p.kernel = 1, p.stride = 2, p.relu = false; });
  add([](auto& p) { p.kernel = 3, p.stride = 2; });
  for (Taps taps : {Taps::kTransposed, Taps::kSubPixel, Taps::kDilated}) add([&](auto& p) { p.taps = taps; });
  for (Interpolation first : {Interpolation::kNearest, Interpolation::kBilinear}) {
    add([&](auto& p) { p.interpolations[0] = first, p.channels[0] = 32, p.channels[1] = 40, p.relu = false; });
  }
  add([](auto& p) { p.interpolations[1] = Interpolation::kBilinear, p.channels[1] = 8; });
  add([](auto& p) { p.channels[0] = 40, p.out_channels = 40, p.shortcut_channels = 40; });
  for (int channels : {1, 3}) {
    add([&](auto& p) { p.image_channels = channels, p.out_channels = 40, p.keep = false, p.shortcut_channels = 24; });
    add([&](auto& p) { p.image_channels = channels, p.taps = Taps::kTransposed, p.out_channels = 8; });
  }
  if (fewer) return problems;
  for (int width = 8; width <= 8 * kWidths; width += 8) {
    add([&](auto& p) { p.channels[0] = 8 * kWidths + 8 - width, p.out_channels = width; });
  }
  for (const ConvolutionProblem& problem : problems_of_every_shape()) problems.push_back(problem);
  for (int i = 0; i < 50; ++i) problems.push_back(random_convolution());
  return problems;
}

std::vector<SeparableProblem> separable_problems(bool fewer) {
  std::vector<SeparableProblem> problems;
  for (int kernel : {3, 5}) {
    for (int dilation : {1, 2}) {
      for (int width : fewer ? std::vector<int>{40} : std::vector<int>{8, 16, 32, 40, 72}) {
        SeparableProblem problem;
        problem.kernel = kernel;
        problem.dilation = dilation;
        problem.channels = width;
        problem.out_channels = random_width();
        problem.images = 1 + width % 3 / 2;
        problem.relu = dilation == 1 || width == 40;
        problem.relu_out = width % 16 == 0;
        problem.image_channels = problem.out_channels <= 48 ? 1 + 2 * (width % 16 / 8) : 0;
        if (width == 16) problem.rows = problem.columns = 1;
        problems.push_back(problem);
      }
    }
  }
  return problems;
}

void note_shape(const Convolution& arguments) { used.insert(shape_of(arguments)); }

bool every_shape_was_used() {
  bool all = true;
  for (const auto& [tiles, split] : {std::pair{4, 1}, {2, 1}, {1, 1}, {1, 2}, {1, 4}}) {
    for (int columns = 1; columns <= kMostColumns; ++columns) {
      if (used.count({tiles, split, columns}) != 0) continue;
      std::printf("FAILED: no launch had %d tiles, %d columns and a split of %d\n", tiles, columns, split);
      all = false;
    }
  }
  return all;
}

}  // namespace modnas_fast::cuda
