// Every CUDA kernel of the table, run on the CPU, against plain loops in double: kernels_test all|fewer ELEMENT...
// Prints what failed, and a table of the errors of what did not; returns 1 if anything failed, or 0. The bounds follow
// from the arithmetic: sums in float32, results rounded once.
#include <cstdio>
#include <cstring>
#include <string>

#include "problems.h"
#include "properties.h"

namespace modnas_fast::cuda {

namespace {

constexpr int kProcessors[] = {1, 6, 30, 2000};  // few make blocks large, many make them small

void set_machine(int number) {
  emulation::order = {number % 2 != 0, number / 2 % 2 != 0};
  emulation::device.processors = kProcessors[number * 7 / 3 % 4];
}

bool check(const char* kind, int number, bool passed) {
  if (!passed) {
    std::printf("  in %s %d; %d processors, %s, %s\n", kind, number, emulation::device.processors,
                emulation::order.descending ? "descending" : "ascending",
                emulation::order.depth_first ? "depth first" : "in turns");
  }
  return passed;
}

bool test(Element element, bool fewer) {
  const Kernels& kernels = *select_kernels(element, 80);
  parity.clear();
  bool passed = true;
  int number = 0;
  for (const ConvolutionProblem& problem : convolution_problems(fewer)) {
    set_machine(++number);
    if (problem.processors != 0) emulation::device.processors = problem.processors;
    passed &= check("convolution", number, run(kernels, problem));
  }
  for (const SeparableProblem& problem : separable_problems(fewer)) {
    set_machine(++number);
    passed &= check("separable", number, run(kernels, problem));
  }
  for (int channels : {1, 3}) {
    for (int side : {1, 2, 11, 37}) {
      set_machine(++number);
      passed &= check("stem", number, run_stem(kernels, channels, side));
      passed &= check("output", number, run_output(kernels, channels, side));
    }
  }
  return passed;
}

void print_parity(const char* element) {
  for (const auto& [what, all] : parity) {
    std::printf("| %s | %s | %d | %lld | %.1e | %.0f %% |\n", what.c_str(), element, all.tensors,
                static_cast<long long>(all.values), all.error / all.largest, 100 * all.share);
  }
}

}  // namespace

}  // namespace modnas_fast::cuda

int main(int count, char** words) {
  using namespace modnas_fast::cuda;
  if (count < 3) return 2;
  const bool fewer = std::strcmp(words[1], "fewer") == 0;
  bool passed = true;
  std::printf("| result | elements | tensors | values | error over the largest value | of its bound |\n");
  std::printf("|---|---|---|---|---|---|\n");
  for (int i = 2; i < count; ++i) {
    const std::string name = words[i];
    const Element element = name == "float16"    ? Element::kFloat16
                            : name == "bfloat16" ? Element::kBfloat16
                                                 : Element::kFloat32;
    passed &= test(element, fewer);
    print_parity(words[i]);
    if (element != Element::kFloat16 || fewer) continue;
    passed &= every_shape_was_used();
    passed &= missing_barriers_are_seen();
    passed &= missing_waits_are_seen();
    passed &= blocks_fit_every_device();
  }
  return passed ? 0 : 1;
}
