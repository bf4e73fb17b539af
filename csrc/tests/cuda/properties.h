// What holds for kernels beyond their results.
#pragma once

namespace modnas_fast::cuda {

// Planted errors: planted.cpp.
bool missing_barriers_are_seen();
bool missing_waits_are_seen();

bool blocks_fit_every_device();  // blocks_test.cpp

}  // namespace modnas_fast::cuda
