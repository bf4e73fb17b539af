#include "properties.h"

#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <functional>
#include <vector>

#include "problems.h"

namespace modnas_fast::cuda {

namespace {

// In a process of its own: a kernel that races may well crash.
bool right(const std::function<bool()>& run) {
  std::fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    if (std::freopen("/dev/null", "w", stdout) == nullptr) _exit(2);
    _exit(run() ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

// Under some order of threads each of a kernel's barriers must be missed, and none under any order while all are there.
// `skipped` is of which kind they are.
bool every_barrier_counts(const char* kernel, int& skipped, std::vector<int> barriers,
                          const std::function<bool()>& run) {
  bool passed = true;
  barriers.push_back(-1);
  for (const int barrier : barriers) {
    bool always_right = true;
    for (int order = 0; order < 4; ++order) {
      skipped = barrier;
      emulation::order = {order % 2 != 0, order / 2 != 0};
      always_right &= right(run);
    }
    if (always_right != (barrier < 0)) {
      std::printf("FAILED: %s %s barrier %d\n", kernel, barrier < 0 ? "is wrong with every" : "is right without",
                  barrier);
      passed = false;
    }
  }
  skipped = -1;
  return passed;
}

}  // namespace

bool missing_waits_are_seen() {
  const Kernels& kernels = *select_kernels(Element::kFloat16, 90);
  struct Case {
    const char* kernel;
    bool copies;
    std::function<bool()> run;
  };
  ConvolutionProblem plain;
  plain.relu = false;
  const Case cases[] = {
      {"convolution", true, [&] { return run(kernels, plain); }},
      {"convolution of a rectified source", true, [&] { return run(kernels, ConvolutionProblem()); }},
      {"separable", true, [&] { return run(kernels, SeparableProblem()); }},
      {"stem", false, [&] { return run_stem(kernels, 1, 11); }},
      {"output", false, [&] { return run_output(kernels, 1, 11); }},
  };
  bool passed = true;
  for (const auto& [kernel, copies, run] : cases) {
    for (bool* const waits : {&emulation::waits, &emulation::waits_for_copies}) {
      if (waits == &emulation::waits_for_copies && !copies) continue;
      *waits = false;
      if (right(run)) {
        std::printf("FAILED: %s is right though it does not wait for %s\n", kernel,
                    waits == &emulation::waits ? "the launch before" : "its copies");
        passed = false;
      }
      *waits = true;
    }
  }
  return passed;
}

bool missing_barriers_are_seen() {
  const Kernels& kernels = *select_kernels(Element::kFloat16, 75);
  ConvolutionProblem large, split;
  large.channels[0] = split.channels[0] = 24;
  large.rows = 16;
  large.columns = 48;
  split.rows = split.columns = 8;
  ConvolutionProblem ending = large;  // the stage: stores first, then an image of three channels
  ending.image_channels = 3;
  SeparableProblem separable;
  separable.channels = 8;  // so that what is staged reaches beyond the patch
  separable.out_channels = 48;
  int &block = emulation::skipped_barrier, &warp = emulation::skipped_warp_barrier;
  emulation::device.processors = 1;
  bool passed = every_barrier_counts("convolution", block, {0, 1}, [&] { return run(kernels, large); });
  // Those between come after or before shuffles, which let no lane run ahead: they order memory alone.
  passed &= every_barrier_counts("a warp of convolution", warp, {0, 2, 4, 6}, [&] { return run(kernels, ending); });
  emulation::device.processors = 2000;
  passed &= every_barrier_counts("convolution of split sums", block, {0, 1, 2, 3}, [&] { return run(kernels, split); });
  passed &= every_barrier_counts("separable", block, {0, 1, 2}, [&] { return run(kernels, separable); });
  return passed;
}

}  // namespace modnas_fast::cuda
