// The tree of boxes that this library's queries search.
#include "box_tree_build.cuh"
