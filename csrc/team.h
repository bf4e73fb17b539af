// Loops shared among the threads that the process already has.
#pragma once

#include <cstdint>
#include <functional>

namespace modnas_fast {

// Calls task(index, thread) for every index in 0…count − 1 on up to `threads` threads, numbered from 0, of the OpenMP
// runtime that the process has loaded: PyTorch's as a rule, whose idle threads a second team would wait for. Without
// one, on the calling thread and new ones. Tasks are taken one by one, and must not throw.
void run_in_team(int threads, int64_t count, const std::function<void(int64_t, int)>& task);

}  // namespace modnas_fast
