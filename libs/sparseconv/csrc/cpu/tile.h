// One tile of a convolution: a run of output rows short enough for a core's own cache. Plain data and no library, so
// that the files compiled for newer instructions share no inline function with the rest.
#pragma once

#include <cstdint>

namespace sparseconv {

constexpr int TILE_ROWS = 256;  // targets are bytes
constexpr int PANEL = 16;       // output channels that are packed side by side

// Pairs of bfloat16 in a row of so many channels: whole tile registers of 16.
constexpr int64_t pairs_of(int64_t channels) { return (channels + 31) / 32 * 16; }

// An operand is a float, or two bfloat16 side by side in the same 32 bits, the lower channel below.
struct Tile {
  const uint32_t* features;  // (any, stride)
  const uint32_t* weight;    // (volume, panels, stride, PANEL)
  const float* bias;         // (out_channels) or null
  const float* residual;     // as output, or null
  float* output;             // (any, out_channels)
  uint32_t* room;            // (TILE_ROWS, stride) if `gathers`, for a kernel that wants its rows side by side
  int64_t depth;             // operands of a row
  int64_t stride;            // operands from row to row, those past the depth 0
  int64_t out_channels;
  int64_t volume;
  int64_t panels;
  int64_t first_panel;  // the share of the output's columns that is computed
  int64_t last_panel;
  const int32_t* rows;  // (count) output rows
  int64_t count;
  const int64_t* starts;   // (volume + 1) where each offset's pairs begin
  const int32_t* sources;  // input row of each pair
  const uint8_t* targets;  // place in `rows` of each pair
  bool relu;
  bool gathers;
};

// Rounds rows of floats to bfloat16, to the nearest and ties to even, and fills them up with zeros to the stride.
using Round = void (*)(const float* from, int64_t rows, int64_t channels, int64_t stride, uint32_t* to);
using Convolve = void (*)(const Tile& tile);

void convolve_default(const Tile& tile);
void convolve_bfloat16_default(const Tile& tile);
void round_default(const float* from, int64_t rows, int64_t channels, int64_t stride, uint32_t* to);
#if defined(__x86_64__)
void convolve_avx2(const Tile& tile);
void convolve_bfloat16_avx2(const Tile& tile);
void round_avx2(const float* from, int64_t rows, int64_t channels, int64_t stride, uint32_t* to);
void convolve_avx512(const Tile& tile);
void convolve_bfloat16_avx512(const Tile& tile);
void round_avx512(const float* from, int64_t rows, int64_t channels, int64_t stride, uint32_t* to);
// Compilers before GCC 11 and Clang 12 know no tile registers.
#if defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11
#define SPARSECONV_AMX
void convolve_amx_bf16(const Tile& tile);
#endif
#endif

}  // namespace sparseconv
