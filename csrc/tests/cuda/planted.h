// Planted errors: whether a missing barrier would be seen.
#pragma once

namespace modnas_fast::cuda {

bool missing_barriers_are_seen();

}  // namespace modnas_fast::cuda
