// The operators' signatures, and the Python module whose import loads them.
#include <Python.h>
#include <torch/library.h>

TORCH_LIBRARY(pointops, m) {
  m.def("knn_query(int nsample, Tensor xyz, Tensor offset, Tensor new_xyz, Tensor new_offset) -> (Tensor, Tensor)");
  m.def(
      "ball_query(int nsample, float max_radius, float min_radius, Tensor xyz, Tensor offset, Tensor new_xyz, "
      "Tensor new_offset) -> (Tensor, Tensor)");
  m.def(
      "random_ball_query(int nsample, float max_radius, float min_radius, Tensor order, Tensor xyz, Tensor offset, "
      "Tensor new_xyz, Tensor new_offset) -> (Tensor, Tensor)");
  m.def("farthest_point_sampling(Tensor xyz, Tensor offset, Tensor new_offset) -> Tensor");
  m.def("grouping(Tensor idx, Tensor feat, Tensor? xyz, Tensor? new_xyz) -> Tensor");
  m.def("interpolation(Tensor feat, Tensor idx, Tensor dist) -> Tensor");
  m.def("subtraction(Tensor input1, Tensor input2, Tensor idx) -> Tensor");
  m.def("aggregation(Tensor input, Tensor position, Tensor weight, Tensor idx) -> Tensor");
  m.def(
      "attention_relation_step(Tensor query, Tensor key, Tensor weight, Tensor index_target, Tensor index_refer) "
      "-> Tensor");
  m.def("attention_fusion_step(Tensor weight, Tensor value, Tensor index_target, Tensor index_refer) -> Tensor");
}

extern "C" __attribute__((visibility("default"))) PyObject* PyInit__C(void) {
  static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&module);
}
