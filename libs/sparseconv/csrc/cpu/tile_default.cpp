// For every processor that the compiler's own choice of instructions serves.
#define NAMED(name) name##_default
#define WIDTH 4
#define ABREAST 1
#if defined(__aarch64__)
#define ROWS 6
#else
#define ROWS 2
#endif
#define MULTIPLY_ADD(sum, a, b) ((sum) + (a) * (b))
#include "tile.inc"
