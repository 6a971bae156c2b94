// The neighbours of every cell, for submanifold convolutions.
//
// Sorted keys fall into blocks of 4 x 4 x 4 cells: a 64-bit mask says which are occupied, and the row of a cell is the
// block's first row plus the number of bits below it (the idea of the trees of Museth, VDB, 2013). Only blocks are
// looked up in a hash table; the rows around a block are spread into a small cube, where a neighbour is one load away.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <tuple>
#include <vector>

#include "cells.h"
#include "tile.h"

namespace sparseconv {
namespace {

constexpr int EDGE = 4;

struct Block {
  uint64_t key;
  uint64_t mask;
  int64_t first;  // place of its first cell in the sorted keys
};

// Open addressing; at most half full.
class Blocks {
 public:
  Blocks(const uint64_t* keys, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      if (blocks_.empty() || blocks_.back().key != keys[i] >> 6) blocks_.push_back({keys[i] >> 6, 0, i});
      blocks_.back().mask |= 1ULL << (keys[i] & 63);
    }
    int bits = 4;
    while ((size_t{1} << bits) < 2 * blocks_.size()) ++bits;
    shift_ = 64 - bits;
    slots_.assign(size_t{1} << bits, -1);
    for (size_t b = 0; b < blocks_.size(); ++b) {
      size_t slot = slot_of(blocks_[b].key);
      while (slots_[slot] >= 0) slot = (slot + 1) & (slots_.size() - 1);
      slots_[slot] = static_cast<int32_t>(b);
    }
  }

  const Block* find(uint64_t key) const {
    for (size_t slot = slot_of(key); slots_[slot] >= 0; slot = (slot + 1) & (slots_.size() - 1)) {
      const Block& block = blocks_[slots_[slot]];
      if (block.key == key) return &block;
    }
    return nullptr;
  }

  // The block that holds a place of the sorted keys.
  size_t holding(int64_t place) const {
    size_t low = 0, high = blocks_.size();
    while (high - low > 1) {
      const size_t middle = (low + high) / 2;
      (blocks_[middle].first <= place ? low : high) = middle;
    }
    return low;
  }

  const std::vector<Block>& all() const { return blocks_; }

 private:
  size_t slot_of(uint64_t key) const { return (key * 0x9e3779b97f4a7c15ULL) >> shift_; }

  std::vector<Block> blocks_;
  std::vector<int32_t> slots_;
  int shift_;
};

// Kernel offsets, x-major, as steps in the cube; and how far they reach.
struct Kernel {
  int64_t volume;
  Triple reach, size;        // cells beyond a block, edge of the cube
  std::vector<int32_t> step;  // of each offset, from the cube's corner

  Kernel(const Triple& kernel, const Triple& dilation) {
    volume = kernel[0] * kernel[1] * kernel[2];
    for (int a = 0; a < 3; ++a) {
      reach[a] = kernel[a] / 2 * dilation[a];
      size[a] = EDGE + 2 * reach[a];
    }
    for (int64_t x = 0; x < kernel[0]; ++x) {
      for (int64_t y = 0; y < kernel[1]; ++y) {
        for (int64_t z = 0; z < kernel[2]; ++z) {
          step.push_back(static_cast<int32_t>(((x * dilation[0]) * size[1] + y * dilation[1]) * size[2] + z * dilation[2]));
        }
      }
    }
  }
};

// What one thread needs: the cube of rows round a block, and the pairs of a tile by offset.
class Search {
 public:
  Search(const Kernel& kernel, const Blocks& blocks, const int32_t* order, int bits)
      : kernel_(kernel), blocks_(blocks), order_(order), block_bits_(bits - 2),
        cube_(kernel.size[0] * kernel.size[1] * kernel.size[2], -1), sources_(kernel.volume * TILE_ROWS),
        targets_(kernel.volume * TILE_ROWS), sizes_(kernel.volume) {
    for (int bit = 0; bit < 64; ++bit) {
      at_[bit][0] = static_cast<int32_t>(gather(bit >> 2));
      at_[bit][1] = static_cast<int32_t>(gather(bit >> 1));
      at_[bit][2] = static_cast<int32_t>(gather(bit));
    }
    // Which cells of a block that lies so many blocks away are within reach.
    for (int a = 0; a < 3; ++a) beyond_[a] = (kernel.reach[a] + EDGE - 1) / EDGE;
    for (int64_t x = -beyond_[0]; x <= beyond_[0]; ++x) {
      for (int64_t y = -beyond_[1]; y <= beyond_[1]; ++y) {
        for (int64_t z = -beyond_[2]; z <= beyond_[2]; ++z) {
          Around around{{x, y, z}, 0, 0};
          for (int bit = 0; bit < 64; ++bit) {
            bool within = true;
            for (int a = 0; a < 3; ++a) {
              const int64_t at = around.way[a] * EDGE + at_[bit][a] + kernel.reach[a];
              within = within && at >= 0 && at < kernel.size[a];
            }
            if (within) around.mask |= 1ULL << bit;
          }
          around.corner = place(x * EDGE, y * EDGE, z * EDGE);
          around_.push_back(around);
        }
      }
    }
    for (int bit = 0; bit < 64; ++bit) {
      inside_[bit] = static_cast<int32_t>((at_[bit][0] * kernel.size[1] + at_[bit][1]) * kernel.size[2] + at_[bit][2]);
    }
  }

  // Finds the pairs of the cells at places begin..end, at most TILE_ROWS, and returns how many there are.
  int64_t run(int64_t begin, int64_t end) {
    std::fill(sizes_.begin(), sizes_.end(), 0);
    for (size_t b = blocks_.holding(begin); b < blocks_.all().size() && blocks_.all()[b].first < end; ++b) {
      const Block& block = blocks_.all()[b];
      fill(block);
      int32_t corner[64];
      uint8_t target[64];
      int count = 0;
      int64_t row = block.first;
      for (uint64_t left = block.mask; left != 0; left &= left - 1, ++row) {
        if (row < begin || row >= end) continue;
        corner[count] = inside_[__builtin_ctzll(left)];
        target[count++] = static_cast<uint8_t>(row - begin);
      }
      for (int64_t o = 0; o < kernel_.volume; ++o) {
        const int32_t* cube = cube_.data() + kernel_.step[o];
        int32_t* source = sources_.data() + o * TILE_ROWS;
        uint8_t* place = targets_.data() + o * TILE_ROWS;
        int32_t size = sizes_[o];
        // Written always and counted only if there is a neighbour: no branch to guess wrong.
        for (int c = 0; c < count; ++c) {
          const int32_t found = cube[corner[c]];
          source[size] = found;
          place[size] = target[c];
          size += found >= 0;
        }
        sizes_[o] = size;
      }
      for (int32_t at : filled_) cube_[at] = -1;
      filled_.clear();
    }
    int64_t pairs = 0;
    for (int32_t size : sizes_) pairs += size;
    return pairs;
  }

  // Writes what `run` found, offset after offset.
  void write(int32_t* sources, uint8_t* targets, int32_t* sizes) const {
    for (int64_t o = 0; o < kernel_.volume; ++o) {
      std::memcpy(sources, sources_.data() + o * TILE_ROWS, sizes_[o] * sizeof(int32_t));
      std::memcpy(targets, targets_.data() + o * TILE_ROWS, sizes_[o]);
      sources += sizes_[o];
      targets += sizes_[o];
      sizes[o] = sizes_[o];
    }
  }

 private:
  struct Around {
    int64_t way[3];
    uint64_t mask;
    int64_t corner;
  };

  int64_t place(int64_t x, int64_t y, int64_t z) const {
    return ((x + kernel_.reach[0]) * kernel_.size[1] + y + kernel_.reach[1]) * kernel_.size[2] + z + kernel_.reach[2];
  }

  void fill(const Block& block) {
    const uint64_t cell = block.key & below(3 * block_bits_);
    const uint64_t cloud = block.key >> 3 * block_bits_;
    const int64_t at[3] = {
        static_cast<int64_t>(gather(cell >> 2)), static_cast<int64_t>(gather(cell >> 1)),
        static_cast<int64_t>(gather(cell))};
    const int64_t edge = int64_t{1} << block_bits_;
    for (const Around& around : around_) {
      const int64_t x = at[0] + around.way[0], y = at[1] + around.way[1], z = at[2] + around.way[2];
      if (x < 0 || x >= edge || y < 0 || y >= edge || z < 0 || z >= edge) continue;
      const Block* other = blocks_.find(cloud << 3 * block_bits_ | curve(x, y, z));
      if (other == nullptr) continue;
      for (uint64_t left = other->mask & around.mask; left != 0; left &= left - 1) {
        const int bit = __builtin_ctzll(left);
        const auto to = static_cast<int32_t>(around.corner + inside_[bit]);
        cube_[to] = order_[other->first + __builtin_popcountll(other->mask & ((1ULL << bit) - 1))];
        filled_.push_back(to);
      }
    }
  }

  const Kernel& kernel_;
  const Blocks& blocks_;
  const int32_t* order_;
  int block_bits_;
  std::vector<int32_t> cube_, sources_;
  std::vector<uint8_t> targets_;
  std::vector<int32_t> sizes_, filled_;
  std::vector<Around> around_;
  int64_t beyond_[3];
  int32_t at_[64][3], inside_[64];
};

std::tuple<at::Tensor, at::Tensor, at::Tensor> subm_map(
    const at::Tensor& keys, const at::Tensor& order, at::IntArrayRef spatial_shape, at::IntArrayRef kernel_size,
    at::IntArrayRef dilation) {
  const char* op = "subm_map";
  const Triple shape = check_triple(op, "spatial_shape", spatial_shape, 1, LARGEST_EXTENT);
  const Triple size = check_triple(op, "kernel_size", kernel_size, 1, 31);
  const Triple spread_by = check_triple(op, "dilation", dilation, 1, 32);
  for (int a = 0; a < 3; ++a) {
    CHECK_VALUE(size[a] % 2 == 1, op, ": kernel_size must be odd, but has ", size[a]);
    CHECK_VALUE(
        size[a] / 2 * spread_by[a] <= 64, op, ": dilation ", spread_by[a], " with kernel_size ", size[a],
        " reaches beyond 64 cells");
  }
  check_cells(op, keys, order);
  const int64_t count = keys.numel();
  const int64_t tiles = tiles_of(count, TILE_ROWS);
  const Kernel kernel(size, spread_by);
  const int bits = bits_of(shape);
  const Blocks blocks(reinterpret_cast<const uint64_t*>(keys.const_data_ptr<int64_t>()), count);
  const int32_t* row = order.const_data_ptr<int32_t>();

  at::Tensor starts = at::empty({tiles * kernel.volume + 1}, keys.options());
  int64_t* start = starts.mutable_data_ptr<int64_t>();
  std::vector<std::unique_ptr<char[]>> found(tiles);
  std::vector<int64_t> pairs(tiles + 1, 0);
  std::atomic<int64_t> next{0};
  const int64_t threads = std::min<int64_t>(at::get_num_threads(), tiles);
  at::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    Search search(kernel, blocks, row, bits);
    std::vector<int32_t> sizes(kernel.volume);
    for (int64_t t = next++; t < tiles; t = next++) {
      const int64_t number = search.run(t * TILE_ROWS, std::min((t + 1) * TILE_ROWS, count));
      found[t].reset(new char[number * 5]);
      search.write(
          reinterpret_cast<int32_t*>(found[t].get()), reinterpret_cast<uint8_t*>(found[t].get() + number * 4),
          sizes.data());
      pairs[t + 1] = number;
      int64_t sum = 0;
      for (int64_t o = 0; o < kernel.volume; ++o) {
        start[t * kernel.volume + o] = sum;
        sum += sizes[o];
      }
    }
  });
  for (int64_t t = 0; t < tiles; ++t) pairs[t + 1] += pairs[t];
  start[tiles * kernel.volume] = pairs[tiles];
  at::Tensor sources = at::empty({pairs[tiles]}, order.options());
  at::Tensor targets = at::empty({pairs[tiles]}, order.options().dtype(at::kByte));
  int32_t* source = sources.mutable_data_ptr<int32_t>();
  uint8_t* target = targets.mutable_data_ptr<uint8_t>();
  at::parallel_for(0, tiles, 1, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t number = pairs[t + 1] - pairs[t];
      std::memcpy(source + pairs[t], found[t].get(), number * 4);
      std::memcpy(target + pairs[t], found[t].get() + number * 4, number);
      found[t].reset();
      for (int64_t o = 0; o < kernel.volume; ++o) start[t * kernel.volume + o] += pairs[t];
    }
  });
  return {starts, sources, targets};
}

}  // namespace

TORCH_LIBRARY_IMPL(sparseconv, CPU, m) { m.impl("subm_map", &subm_map); }

}  // namespace sparseconv
