// Checks of both operators, the same on every device.
#pragma once

#include <vector>

#include "check.h"

namespace pointgroup_ops {

inline std::vector<int64_t> check_ball_query(const at::Tensor& coords, const at::Tensor& batch_idxs,
                                             const at::Tensor& batch_offsets, double radius) {
  const auto device = coords.device();
  boxtree::check_points(coords, "coords", device);
  boxtree::check_ints(batch_idxs, "batch_idxs", device, 1);
  boxtree::check_rows(batch_idxs, "batch_idxs", 0, coords.size(0), "one for each point");
  CHECK_VALUE(std::isfinite(radius) && radius >= 0, "radius must be finite and not negative, it is ", radius);
  CHECK_VALUE(batch_offsets.numel() >= 2, "batch_offsets must hold 0 and one cumulative count for each cloud");
  std::vector<int64_t> offsets = boxtree::read_offset(batch_offsets, "batch_offsets", device, coords.size(0));
  CHECK_VALUE(offsets[1] == 0, "batch_offsets must begin with 0, it begins with ", offsets[1]);
  offsets.erase(offsets.begin());
  return offsets;
}

inline void check_batch(int64_t bad_row) {
  CHECK_VALUE(bad_row < 0, "batch_idxs[", bad_row, "] is not the cloud that batch_offsets says row ", bad_row,
              " is in");
}

inline void check_total(int64_t neighbours) {
  CHECK_VALUE(neighbours <= std::numeric_limits<int32_t>::max(), "radius is too large for these coords: ",
              neighbours, " neighbours do not fit the int32 of start_len");
}

inline void check_cluster(const at::Tensor& semantic_label, const at::Tensor& ball_query_idxs,
                          const at::Tensor& start_len) {
  const auto device = semantic_label.device();
  boxtree::check_ints(semantic_label, "semantic_label", device, 1);
  CHECK_TYPE(ball_query_idxs.scalar_type() == at::kInt, "ball_query_idxs must be int32, it is ",
             ball_query_idxs.scalar_type());
  boxtree::check_layout(ball_query_idxs, "ball_query_idxs", device, 1);
  boxtree::check_ints(start_len, "start_len", device, 2);
  boxtree::check_rows(start_len, "start_len", 0, semantic_label.size(0), "as semantic_label");
  boxtree::check_rows(start_len, "start_len", 1, 2, "start and length");
}

inline void check_lists(int64_t bad_row) {
  CHECK_VALUE(bad_row < 0, "start_len[", bad_row, "] reaches outside ball_query_idxs");
}

inline void check_neighbours(int64_t bad_place) {
  CHECK_VALUE(bad_place < 0, "ball_query_idxs[", bad_place, "] is not a row of semantic_label");
}

}  // namespace pointgroup_ops
