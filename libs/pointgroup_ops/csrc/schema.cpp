// The operators' signatures, and the Python module whose import loads them.
#include <Python.h>
#include <torch/library.h>

TORCH_LIBRARY(pointgroup_ops, m) {
  m.def("ballquery_batch_p(Tensor coords, Tensor batch_idxs, Tensor batch_offsets, float radius) -> (Tensor, Tensor)");
  m.def(
      "bfs_cluster(Tensor semantic_label, Tensor ball_query_idxs, Tensor start_len, int threshold) "
      "-> (Tensor, Tensor)");
}

extern "C" __attribute__((visibility("default"))) PyObject* PyInit__C(void) {
  static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&module);
}
