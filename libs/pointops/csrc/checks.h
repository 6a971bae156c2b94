// Checks that several of the operators share, the same on every device.
#pragma once

#include <c10/util/Optional.h>

#include <optional>
#include <tuple>
#include <vector>

#include "check.h"

namespace pointops {

struct Clouds {
  std::vector<int64_t> offset, new_offset;  // cumulative, 0 in front
  int64_t count() const { return static_cast<int64_t>(offset.size()) - 1; }
};

inline Clouds check_query(int64_t nsample, const at::Tensor& xyz, const at::Tensor& offset, const at::Tensor& new_xyz,
                          const at::Tensor& new_offset) {
  const auto device = xyz.device();
  boxtree::check_count(nsample, "nsample");
  boxtree::check_points(xyz, "xyz", device);
  boxtree::check_points(new_xyz, "new_xyz", device);
  Clouds clouds{boxtree::read_offset(offset, "offset", device, xyz.size(0)),
                boxtree::read_offset(new_offset, "new_offset", device, new_xyz.size(0))};
  boxtree::check_same_clouds(clouds.offset, clouds.new_offset);
  return clouds;
}

inline Clouds check_sampling(const at::Tensor& xyz, const at::Tensor& offset, const at::Tensor& new_offset) {
  const auto device = xyz.device();
  boxtree::check_points(xyz, "xyz", device);
  Clouds clouds{boxtree::read_offset(offset, "offset", device, xyz.size(0)),
                boxtree::read_offset(new_offset, "new_offset", device, -1)};
  boxtree::check_same_clouds(clouds.offset, clouds.new_offset);
  for (int64_t i = 0; i < clouds.count(); ++i)
    CHECK_VALUE(clouds.offset[i] < clouds.offset[i + 1] || clouds.new_offset[i] == clouds.new_offset[i + 1],
                "offset: cloud ", i, " has no points, new_offset asks for ",
                clouds.new_offset[i + 1] - clouds.new_offset[i], " samples of it");
  return clouds;
}

inline void check_order(const at::Tensor& order, const at::Tensor& xyz) {
  boxtree::check_ints(order, "order", xyz.device(), 1);
  boxtree::check_rows(order, "order", 0, xyz.size(0), "one place for each point");
}

// Called with the first place that breaks the rule, or anything past the last.
inline void check_order_place(int64_t bad_place, int64_t places) {
  CHECK_VALUE(bad_place >= places, "order must hold every row of each cloud once, in the places of that cloud; place ",
              bad_place, " does not");
}

inline void check_grouping(const at::Tensor& idx, const at::Tensor& feat, const std::optional<at::Tensor>& xyz,
                           const std::optional<at::Tensor>& new_xyz) {
  const auto device = feat.device();
  boxtree::check_floats(feat, "feat", device, 2);
  boxtree::check_ints(idx, "idx", device, 2);
  CHECK_VALUE(xyz.has_value() == new_xyz.has_value(), "xyz and new_xyz must be given together");
  if (!xyz) return;
  boxtree::check_points(*xyz, "xyz", device);
  boxtree::check_points(*new_xyz, "new_xyz", device);
  boxtree::check_rows(*xyz, "xyz", 0, feat.size(0), "as feat");
  boxtree::check_rows(*new_xyz, "new_xyz", 0, idx.size(0), "as idx");
}

inline void check_interpolation(const at::Tensor& feat, const at::Tensor& idx, const at::Tensor& dist) {
  const auto device = feat.device();
  boxtree::check_floats(feat, "feat", device, 2);
  boxtree::check_ints(idx, "idx", device, 2);
  boxtree::check_floats(dist, "dist", device, 2);
  boxtree::check_rows(dist, "dist", 0, idx.size(0), "as idx");
  boxtree::check_rows(dist, "dist", 1, idx.size(1), "as idx");
}

inline void check_subtraction(const at::Tensor& input1, const at::Tensor& input2, const at::Tensor& idx) {
  const auto device = input1.device();
  boxtree::check_floats(input1, "input1", device, 2);
  boxtree::check_floats(input2, "input2", device, 2);
  boxtree::check_ints(idx, "idx", device, 2);
  boxtree::check_rows(input2, "input2", 1, input1.size(1), "as input1");
  boxtree::check_rows(idx, "idx", 0, input1.size(0), "as input1");
}

inline void check_aggregation(const at::Tensor& input, const at::Tensor& position, const at::Tensor& weight,
                              const at::Tensor& idx) {
  const auto device = input.device();
  boxtree::check_floats(input, "input", device, 2);
  boxtree::check_floats(position, "position", device, 3);
  boxtree::check_floats(weight, "weight", device, 3);
  boxtree::check_ints(idx, "idx", device, 2);
  boxtree::check_rows(position, "position", 0, idx.size(0), "as idx");
  boxtree::check_rows(position, "position", 1, idx.size(1), "as idx");
  boxtree::check_rows(position, "position", 2, input.size(1), "channels of input");
  boxtree::check_rows(weight, "weight", 0, idx.size(0), "as idx");
  boxtree::check_rows(weight, "weight", 1, idx.size(1), "as idx");
  CHECK_VALUE(weight.size(2) >= 1, "weight has no channels");
}

inline void check_pairs(const at::Tensor& index_target, const at::Tensor& index_refer, at::Device device) {
  boxtree::check_ints(index_target, "index_target", device, 1);
  boxtree::check_ints(index_refer, "index_refer", device, 1);
  boxtree::check_rows(index_refer, "index_refer", 0, index_target.size(0), "as index_target");
}

inline void check_relation(const at::Tensor& query, const at::Tensor& key, const at::Tensor& weight,
                           const at::Tensor& index_target, const at::Tensor& index_refer) {
  const auto device = query.device();
  boxtree::check_floats(query, "query", device, 3);
  boxtree::check_floats(key, "key", device, 3);
  boxtree::check_floats(weight, "weight", device, 1);
  boxtree::check_rows(key, "key", 1, query.size(1), "groups of query");
  boxtree::check_rows(key, "key", 2, query.size(2), "channels of query");
  boxtree::check_rows(weight, "weight", 0, query.size(2), "channels of query");
  check_pairs(index_target, index_refer, device);
}

inline void check_fusion(const at::Tensor& weight, const at::Tensor& value, const at::Tensor& index_target,
                         const at::Tensor& index_refer) {
  const auto device = value.device();
  boxtree::check_floats(weight, "weight", device, 2);
  boxtree::check_floats(value, "value", device, 3);
  check_pairs(index_target, index_refer, device);
  boxtree::check_rows(weight, "weight", 0, index_target.size(0), "as index_target");
  boxtree::check_rows(weight, "weight", 1, value.size(1), "groups of value");
}

}  // namespace pointops
