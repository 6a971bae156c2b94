// Cells of a grid as 64-bit keys along a space-filling curve: the cloud above, then the bits of x, y and z in turn
// (Morton 1966). Blocks of 4 x 4 x 4 cells share all but the last six bits.
#pragma once

#include <cstdint>

#include "check.h"

namespace sparseconv {

constexpr int64_t LARGEST_EXTENT = int64_t{1} << 21;

// Bits of a coordinate below the largest extent, at least those of a block.
inline int bits_of(const Triple& shape) {
  int64_t largest = shape[0];
  for (int64_t extent : shape) largest = extent > largest ? extent : largest;
  int bits = 2;
  while ((int64_t{1} << bits) < largest) ++bits;
  return bits;
}

// Puts two zero bits before every bit of a number of up to 21 bits.
inline uint64_t spread(uint64_t v) {
  v = (v | v << 32) & 0x001f00000000ffffULL;
  v = (v | v << 16) & 0x001f0000ff0000ffULL;
  v = (v | v << 8) & 0x100f00f00f00f00fULL;
  v = (v | v << 4) & 0x10c30c30c30c30c3ULL;
  return (v | v << 2) & 0x1249249249249249ULL;
}

inline uint64_t gather(uint64_t v) {
  v &= 0x1249249249249249ULL;
  v = (v ^ v >> 2) & 0x10c30c30c30c30c3ULL;
  v = (v ^ v >> 4) & 0x100f00f00f00f00fULL;
  v = (v ^ v >> 8) & 0x001f0000ff0000ffULL;
  v = (v ^ v >> 16) & 0x001f00000000ffffULL;
  return (v ^ v >> 32) & 0x1fffff;
}

inline uint64_t curve(uint64_t x, uint64_t y, uint64_t z) { return spread(x) << 2 | spread(y) << 1 | spread(z); }

inline uint64_t below(int bits) { return bits >= 64 ? ~0ULL : (1ULL << bits) - 1; }

// Largest number of a cloud beside coordinates of that many bits.
inline int64_t largest_cloud(int bits) { return static_cast<int64_t>(below(63 - 3 * bits)); }

// Sorts keys below 2^bits, with the rows they belong to unless `rows` is null. The results end in `keys` and `rows`.
void sort_keys(uint64_t* keys, int32_t* rows, int64_t count, int bits);

// Checks what sort_cells or down_map has made before: keys go up, and `order` has a row for each.
void check_cells(const char* op, const at::Tensor& keys, const at::Tensor& order);

}  // namespace sparseconv
