// Weights in the order in which the kernels read them.
#pragma once

#include <cstdint>
#include <vector>

namespace modnas_fast {

// [rows, columns] row-major to register tiles (columns.h). `rows` is even, `columns` a multiple of 8.
std::vector<float> pack_matrix(const std::vector<float>& matrix, int64_t rows, int64_t columns, int lanes);

// [columns] to one value a lane of a row of sums; a shared vector has its values in the even lanes.
std::vector<float> pack_bias(const std::vector<float>& bias, int64_t columns, int lanes);

// [kernel, kernel, rows, columns] to 6·6 transformed matrices [rows, columns], one after the other; in double.
std::vector<std::vector<float>> winograd_weights(const std::vector<float>& weight, int kernel, int64_t rows,
                                                 int64_t columns);

}  // namespace modnas_fast
