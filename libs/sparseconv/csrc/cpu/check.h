// Checks of arguments that every operator needs; each message names the argument and says what would be right.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/ArrayRef.h>

#include <array>
#include <cstdint>
#include <vector>

#include "message.h"

namespace sparseconv {

using Triple = std::array<int64_t, 3>;

inline void check_tensor(
    const char* op, const char* name, const at::Tensor& tensor, at::ScalarType dtype, int64_t dimensions) {
  CHECK_VALUE(tensor.device().is_cpu(), op, ": ", name, " must be on the CPU, not on ", tensor.device());
  CHECK_TYPE(tensor.scalar_type() == dtype, op, ": ", name, " must be ", dtype, ", not ", tensor.scalar_type());
  CHECK_VALUE(
      tensor.dim() == dimensions, op, ": ", name, " must have ", dimensions, " dimensions, not ", tensor.dim());
  CHECK_VALUE(tensor.is_contiguous(), op, ": ", name, " must be contiguous; call .contiguous() on it");
}

inline Triple check_triple(const char* op, const char* name, at::IntArrayRef values, int64_t least, int64_t most) {
  CHECK_VALUE(values.size() == 3, op, ": ", name, " must be 3 numbers, for x, y and z, not ", values.size());
  for (int64_t value : values) {
    CHECK_VALUE(
        value >= least && value <= most, op, ": ", name, " must lie in ", least, "..", most, ", but has ", value);
  }
  return {values[0], values[1], values[2]};
}

inline int64_t tiles_of(int64_t rows, int64_t height) { return (rows + height - 1) / height; }

}  // namespace sparseconv
