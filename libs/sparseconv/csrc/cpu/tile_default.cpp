// For every processor that the compiler's own choice of instructions serves.
#define CONVOLVE convolve_default
#define WIDTH 4
#define ABREAST 1
#if defined(__aarch64__)
#define ROWS 6
#else
#define ROWS 2
#endif
#include "tile.inc"
