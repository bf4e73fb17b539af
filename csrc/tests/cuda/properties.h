// What holds for kernels beyond their results.
#pragma once

namespace modnas_fast::cuda {

bool missing_barriers_are_seen();  // planted errors: planted.cpp
bool blocks_fit_every_device();    // blocks_test.cpp

}  // namespace modnas_fast::cuda
