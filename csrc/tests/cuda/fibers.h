// Threads of control that switch by hand: one for every thread of an emulated CUDA block.
#pragma once

#include <cstddef>
#include <functional>

namespace emulation {

constexpr int kMostFibers = 1024;

// Sets fiber `index` to begin `body` when it is next resumed. `body` must have ended, or not begun, until then.
void prepare_fiber(int index, const std::function<void()>* body);
void resume_fiber(int index);  // from outside of fibers; until it suspends itself or its body ends
void suspend_fiber();          // from inside; back to whoever resumed it

}  // namespace emulation
