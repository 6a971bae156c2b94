// One tile of a convolution: a run of output rows short enough for a core's own cache. Plain data and no library, so
// that the files compiled for newer instructions share no inline function with the rest.
#pragma once

#include <cstdint>

namespace sparseconv {

constexpr int TILE_ROWS = 256;  // targets are bytes
constexpr int PANEL = 16;       // output channels that are packed side by side

struct Tile {
  const float* features;  // (any, in_channels)
  const float* weight;    // (volume, panels, in_channels, PANEL)
  const float* bias;      // (out_channels) or null
  const float* residual;  // as output, or null
  float* output;          // (any, out_channels)
  int64_t in_channels;
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
};

void convolve_default(const Tile& tile);
#if defined(__x86_64__)
void convolve_avx2(const Tile& tile);
void convolve_avx512(const Tile& tile);
#endif

}  // namespace sparseconv
