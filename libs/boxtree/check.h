// Checks of an operator's arguments, the same on every device; each message names the argument at fault.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/GradMode.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "message.h"

namespace boxtree {

// Past this the square of a distance no longer fits float32.
constexpr float kLargestCoordinate = 1e18f;

// The GPU whose kernel was chosen by another argument: a device guard would take a tensor elsewhere for a bug of torch.
inline at::Device gpu_of(const at::Tensor& t, const char* name) {
  CHECK_VALUE(t.is_cuda(), name, " is on ", t.device(), ", the other arguments are on cuda");
  return t.device();
}

inline void check_layout(const at::Tensor& t, const char* name, at::Device device, int64_t dim) {
  CHECK_VALUE(t.device() == device, name, " is on ", t.device(), ", the other arguments are on ", device);
  CHECK_VALUE(t.dim() == dim, name, " must have ", dim, " dimension(s), it has shape ", t.sizes());
  CHECK_VALUE(t.is_contiguous(), name, " must be contiguous");
  CHECK_VALUE(
      !(t.requires_grad() && c10::GradMode::is_enabled()), name,
      " requires grad; this operator is forward only: call it under torch.inference_mode() or detach ", name);
  for (const auto size : t.sizes())
    CHECK_VALUE(size < std::numeric_limits<int32_t>::max(), name, " is too large: shape ", t.sizes());
}

inline void check_floats(const at::Tensor& t, const char* name, at::Device device, int64_t dim) {
  CHECK_TYPE(t.scalar_type() == at::kFloat, name, " must be float32, it is ", t.scalar_type());
  check_layout(t, name, device, dim);
}

inline void check_ints(const at::Tensor& t, const char* name, at::Device device, int64_t dim) {
  CHECK_TYPE(t.scalar_type() == at::kInt, name, " must be int32, it is ", t.scalar_type());
  check_layout(t, name, device, dim);
}

inline void check_rows(const at::Tensor& t, const char* name, int64_t dim, int64_t size, const char* why) {
  CHECK_VALUE(t.size(dim) == size, name, " must have size ", size, " in dimension ", dim, " (", why,
              "), it has shape ", t.sizes());
}

inline void check_points(const at::Tensor& t, const char* name, at::Device device) {
  check_floats(t, name, device, 2);
  check_rows(t, name, 1, 3, "x, y, z");
}

inline void check_count(int64_t count, const char* name) {
  CHECK_VALUE(count >= 1 && count <= (int64_t{1} << 20), name, " must be from 1 to 1048576, it is ", count);
}

inline void check_radii(double max_radius, double min_radius) {
  CHECK_VALUE(std::isfinite(max_radius) && max_radius >= 0, "max_radius must be finite and not negative, it is ",
              max_radius);
  CHECK_VALUE(std::isfinite(min_radius) && min_radius >= 0, "min_radius must be finite and not negative, it is ",
              min_radius);
  CHECK_VALUE(min_radius < max_radius, "min_radius (", min_radius, ") must be below max_radius (", max_radius,
              ")");
}

// The row of the first point that is no number, or -1; called with what a device found out.
inline void check_finite(int64_t bad_row, const char* name) {
  CHECK_VALUE(bad_row < 0, name, "[", bad_row, "] has a coordinate that is not finite or beyond ",
              kLargestCoordinate);
}

inline void check_index(int64_t bad_place, const char* name, int64_t rows, int64_t lowest = -1) {
  CHECK_VALUE(bad_place < 0, name, " must lie from ", lowest, " to ", rows - 1, "; element ", bad_place,
              " (counted through) does not");
}

// Cumulative counts as numbers of the host, with 0 in front; `rows` is what they must end at, -1 for anything.
inline std::vector<int64_t> read_offset(const at::Tensor& t, const char* name, at::Device device, int64_t rows) {
  CHECK_TYPE(t.scalar_type() == at::kInt || t.scalar_type() == at::kLong, name, " must be int32 or int64, it is ",
             t.scalar_type());
  check_layout(t, name, device, 1);
  CHECK_VALUE(t.numel() >= 1, name, " is empty: it needs one cumulative count for each cloud");
  const at::Tensor host = t.to(at::kCPU, at::kLong);
  std::vector<int64_t> ends{0};
  ends.insert(ends.end(), host.const_data_ptr<int64_t>(), host.const_data_ptr<int64_t>() + host.numel());
  for (size_t i = 1; i < ends.size(); ++i)
    CHECK_VALUE(ends[i] >= ends[i - 1], name, " goes down at place ", i - 1, ": ", ends[i - 1], " then ", ends[i]);
  CHECK_VALUE(rows < 0 || ends.back() == rows, name, " must end at the number of points, ", rows, ", it ends at ",
              ends.back());
  CHECK_VALUE(ends.back() < std::numeric_limits<int32_t>::max(), name, " ends at ", ends.back(),
              ", past what int32 holds");
  return ends;
}

inline void check_same_clouds(const std::vector<int64_t>& offset, const std::vector<int64_t>& new_offset) {
  CHECK_VALUE(offset.size() == new_offset.size(), "new_offset has ", new_offset.size() - 1,
              " clouds, offset has ", offset.size() - 1);
}

}  // namespace boxtree
