// The operators' schemas, the refusal of gradients, and the module that loading this library makes.
#define Py_LIMITED_API 0x030a0000
#include <Python.h>

#include <ATen/core/Tensor.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>
#include <torch/library.h>

#include "message.h"

TORCH_LIBRARY(sparseconv, m) {
  m.def("sort_cells(Tensor indices, int[] spatial_shape) -> (Tensor keys, Tensor order)");
  m.def(
      "subm_map(Tensor keys, Tensor order, int[] spatial_shape, int[] kernel_size, int[] dilation) -> "
      "(Tensor starts, Tensor sources, Tensor targets)");
  m.def(
      "down_map(Tensor keys, Tensor order, int[] spatial_shape, int[] kernel_size, int[] stride, int[] padding, "
      "int[] dilation) -> (Tensor indices, Tensor keys, Tensor down_starts, Tensor down_sources, "
      "Tensor down_targets, Tensor up_starts, Tensor up_sources, Tensor up_targets)");
  m.def("pack_weight(Tensor weight) -> Tensor");
  m.def("pack_weight_bfloat16(Tensor weight) -> Tensor");
  m.def(
      "conv(Tensor features, Tensor packed, int out_channels, Tensor rows, Tensor starts, Tensor sources, "
      "Tensor targets, Tensor? bias=None, Tensor? residual=None, bool relu=False) -> Tensor");
  m.def(
      "linear(Tensor features, Tensor packed, int out_channels, Tensor? bias=None, Tensor? residual=None, "
      "bool relu=False) -> Tensor");
  // Neither takes a tensor: they are of the CPU alone, whatever the device of the tensors.
  m.def("cpu_instructions() -> str[]");
  m.def("use_cpu_instructions(str name) -> str");
}

namespace {

// Inference only: an argument that records gradients would silently lose them.
void refuse_gradients(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& arguments = op.schema().arguments();
  if (at::GradMode::is_enabled()) {
    for (size_t i = 0; i < arguments.size(); ++i) {
      const c10::IValue& value = (*stack)[stack->size() - arguments.size() + i];
      CHECK_RUN(
          !value.isTensor() || !value.toTensor().defined() || !value.toTensor().requires_grad(),
          op.schema().name(), ": ", arguments[i].name(),
          " requires grad, but this operator only infers; call it under torch.inference_mode()");
    }
  }
  at::AutoDispatchBelowADInplaceOrView below;
  op.callBoxed(stack);
}

}  // namespace

TORCH_LIBRARY_IMPL(sparseconv, Autograd, m) {
  for (const char* name : {"sort_cells", "subm_map", "down_map", "pack_weight", "pack_weight_bfloat16", "conv", "linear"}) {
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&refuse_gradients>());
  }
}

PyMODINIT_FUNC PyInit__C(void) {
  static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&definition);
}
