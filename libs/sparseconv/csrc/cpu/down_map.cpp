// The cells of a strided convolution's output, and its pairs both ways: down, and up again for the inverse.
#include <ATen/Parallel.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <tuple>
#include <utility>
#include <vector>

#include "cells.h"
#include "tile.h"

namespace sparseconv {
namespace {

// The pairs in the order of their inputs: a few bytes each, for there may be many.
struct Pairs {
  std::vector<uint16_t> numbers;  // pairs of each input, by its place in the sorted keys
  std::vector<uint16_t> offsets;  // kernel offset of each pair
  std::vector<uint64_t> outputs;  // of each pair: the key of its window, later the window's row

  // Calls `work(input, pair)` for all of them.
  template <typename Work>
  void each(Work work) const {
    int64_t pair = 0;
    for (size_t i = 0; i < numbers.size(); ++i) {
      for (int n = 0; n < numbers[i]; ++n) work(static_cast<int64_t>(i), pair++);
    }
  }
};

struct Map {
  at::Tensor starts, sources, targets;
};

// Sorts pairs by the tile of their target and by offset, keeping their order otherwise.
template <typename Target, typename Source>
Map sort_pairs(
    const Pairs& pairs, int64_t rows, int64_t volume, const at::TensorOptions& options, Target target_of,
    Source source_of) {
  const int64_t slots = tiles_of(rows, TILE_ROWS) * volume, count = static_cast<int64_t>(pairs.offsets.size());
  Map map{
      at::empty({slots + 1}, options.dtype(at::kLong)), at::empty({count}, options.dtype(at::kInt)),
      at::empty({count}, options.dtype(at::kByte))};
  int64_t* start = map.starts.mutable_data_ptr<int64_t>();
  int32_t* source = map.sources.mutable_data_ptr<int32_t>();
  uint8_t* target = map.targets.mutable_data_ptr<uint8_t>();
  std::vector<int64_t> next(slots, 0);
  pairs.each([&](int64_t input, int64_t pair) {
    ++next[target_of(input, pair) / TILE_ROWS * volume + pairs.offsets[pair]];
  });
  int64_t sum = 0;
  for (int64_t s = 0; s < slots; ++s) {
    start[s] = sum;
    sum += std::exchange(next[s], sum);
  }
  start[slots] = sum;
  pairs.each([&](int64_t input, int64_t pair) {
    const int64_t place = target_of(input, pair);
    const int64_t at = next[place / TILE_ROWS * volume + pairs.offsets[pair]]++;
    source[at] = source_of(input, pair);
    target[at] = static_cast<uint8_t>(place % TILE_ROWS);
  });
  return map;
}

// Along one axis, the kernel offsets at which a window sees a cell, and that window.
struct Seen {
  int64_t number;
  int64_t offset[31], window[31];

  Seen(int64_t at, int64_t kernel, int64_t step, int64_t padding, int64_t dilation, int64_t windows) : number(0) {
    for (int64_t k = 0; k < kernel; ++k) {
      const int64_t from = at + padding - k * dilation;
      if (from < 0) break;
      if (from % step != 0 || from / step >= windows) continue;
      offset[number] = k;
      window[number++] = from / step;
    }
  }
};

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> down_map(
    const at::Tensor& keys, const at::Tensor& order, at::IntArrayRef spatial_shape, at::IntArrayRef kernel_size,
    at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation) {
  const char* op = "down_map";
  const Triple shape = check_triple(op, "spatial_shape", spatial_shape, 1, LARGEST_EXTENT);
  const Triple kernel = check_triple(op, "kernel_size", kernel_size, 1, 31);
  const Triple step = check_triple(op, "stride", stride, 1, 1 << 10);
  const Triple pad = check_triple(op, "padding", padding, 0, 1 << 10);
  const Triple spread_by = check_triple(op, "dilation", dilation, 1, 32);
  check_cells(op, keys, order);
  Triple coarse;
  for (int a = 0; a < 3; ++a) {
    const int64_t room = shape[a] + 2 * pad[a] - spread_by[a] * (kernel[a] - 1) - 1;
    CHECK_VALUE(
        room >= 0, op, ": spatial_shape has an extent of ", shape[a], " cells, too few for a window of kernel_size ",
        kernel[a]);
    coarse[a] = room / step[a] + 1;
    CHECK_VALUE(
        coarse[a] <= LARGEST_EXTENT, op, ": padding makes a grid of more than ", LARGEST_EXTENT, " cells");
  }
  const int fine_bits = bits_of(shape), coarse_bits = bits_of(coarse);
  const int64_t count = keys.numel(), volume = kernel[0] * kernel[1] * kernel[2];
  const auto* key = reinterpret_cast<const uint64_t*>(keys.const_data_ptr<int64_t>());
  const int32_t* row = order.const_data_ptr<int32_t>();
  if (count > 0) {
    CHECK_VALUE(
        static_cast<int64_t>(key[count - 1] >> 3 * fine_bits) <= largest_cloud(coarse_bits), op,
        ": padding makes a grid that is too large for so many clouds");
  }

  const auto seen = [&](int64_t i, int axis) {
    const uint64_t cell = key[i] & below(3 * fine_bits);
    const auto at = static_cast<int64_t>(gather(cell >> (2 - axis)));
    return Seen(at, kernel[axis], step[axis], pad[axis], spread_by[axis], coarse[axis]);
  };
  Pairs pairs;
  pairs.numbers.resize(count);
  std::atomic<int64_t> total{0};
  at::parallel_for(0, count, 1 << 12, [&](int64_t begin, int64_t end) {
    int64_t sum = 0;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t number = seen(i, 0).number * seen(i, 1).number * seen(i, 2).number;
      pairs.numbers[i] = static_cast<uint16_t>(number);
      sum += number;
    }
    total += sum;
  });
  CHECK_VALUE(total < INT32_MAX, op, ": keys and kernel_size give more than 2^31 pairs");
  pairs.offsets.reserve(total);
  pairs.outputs.reserve(total);
  bool sorted = true;
  for (int64_t i = 0; i < count; ++i) {
    const uint64_t cloud = key[i] >> 3 * fine_bits << 3 * coarse_bits;
    const Seen along_x = seen(i, 0), along_y = seen(i, 1), along_z = seen(i, 2);
    for (int64_t x = 0; x < along_x.number; ++x) {
      for (int64_t y = 0; y < along_y.number; ++y) {
        for (int64_t z = 0; z < along_z.number; ++z) {
          const uint64_t to = cloud | curve(along_x.window[x], along_y.window[y], along_z.window[z]);
          sorted = sorted && (pairs.outputs.empty() || pairs.outputs.back() <= to);
          pairs.outputs.push_back(to);
          pairs.offsets.push_back(static_cast<uint16_t>(
              (along_x.offset[x] * kernel[1] + along_y.offset[y]) * kernel[2] + along_z.offset[z]));
        }
      }
    }
  }

  // Where windows follow each other along the curve (kernel = stride = 2) their keys are sorted already.
  std::vector<uint64_t> unique;
  if (sorted) {
    for (uint64_t& output : pairs.outputs) {
      if (unique.empty() || unique.back() != output) unique.push_back(output);
      output = unique.size() - 1;
    }
  } else {
    unique = pairs.outputs;
    uint64_t used = 0;
    for (uint64_t window : unique) used |= window;
    int width = 0;
    while (width < 63 && (used >> width) != 0) ++width;
    sort_keys(unique.data(), nullptr, static_cast<int64_t>(unique.size()), width);
    unique.erase(std::unique(unique.begin(), unique.end()), unique.end());
    unique.shrink_to_fit();
    at::parallel_for(0, total, 1 << 12, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        pairs.outputs[i] = std::lower_bound(unique.begin(), unique.end(), pairs.outputs[i]) - unique.begin();
      }
    });
  }

  const auto outputs = static_cast<int64_t>(unique.size());
  at::Tensor indices = at::empty({outputs, 4}, order.options());
  at::Tensor coarse_keys = at::empty({outputs}, keys.options());
  int32_t* cell = indices.mutable_data_ptr<int32_t>();
  int64_t* coarse_key = coarse_keys.mutable_data_ptr<int64_t>();
  at::parallel_for(0, outputs, 1 << 12, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const uint64_t within = unique[i] & below(3 * coarse_bits);
      coarse_key[i] = static_cast<int64_t>(unique[i]);
      cell[4 * i] = static_cast<int32_t>(unique[i] >> 3 * coarse_bits);
      cell[4 * i + 1] = static_cast<int32_t>(gather(within >> 2));
      cell[4 * i + 2] = static_cast<int32_t>(gather(within >> 1));
      cell[4 * i + 3] = static_cast<int32_t>(gather(within));
    }
  });
  const auto input_of = [](int64_t input, int64_t) { return input; };
  const auto row_of = [row](int64_t input, int64_t) { return row[input]; };
  const auto output_of = [&pairs](int64_t, int64_t pair) { return static_cast<int64_t>(pairs.outputs[pair]); };
  const Map down = sort_pairs(pairs, outputs, volume, keys.options(), output_of, row_of);
  const Map up = sort_pairs(pairs, count, volume, keys.options(), input_of, output_of);
  return {indices, coarse_keys, down.starts, down.sources, down.targets, up.starts, up.sources, up.targets};
}

}  // namespace

TORCH_LIBRARY_IMPL(sparseconv, CPU, m) { m.impl("down_map", &down_map); }

}  // namespace sparseconv
