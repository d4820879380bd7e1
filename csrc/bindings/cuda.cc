#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include "bindings/bindings.h"
#include "kernels/cuda/api.h"

namespace tgv::bindings {

namespace {

using ObjectDict = py::typing::Dict<py::str, py::object>;

ObjectDict device_info_dict(int index) {
  cuda::DeviceInfo device;
  {
    py::gil_scoped_release release;
    device = cuda::device_info(index);
  }
  ObjectDict out;
  out["name"] = device.name;
  out["compute_capability"] = py::make_tuple(device.compute_major, device.compute_minor);
  out["multiprocessors"] = device.multiprocessors;
  out["memory_bytes"] = device.memory_bytes;
  out["l2_bytes"] = device.l2_bytes;
  return out;
}

}  // namespace

void bind_cuda(py::module_& module) {
  module.def("cuda_built", &cuda::built, "Whether this build has a CUDA library.");
  module.def(
      "cuda_why_not", [] { return std::string(cuda::why_not() ? cuda::why_not() : ""); },
      py::call_guard<py::gil_scoped_release>(),
      "Why no GPU can be used here, as a sentence; empty if one can.");
  module.def("cuda_device_count", &cuda::device_count, py::call_guard<py::gil_scoped_release>(),
             "Number of usable GPUs. Raises UnsupportedError when there can be none.");
  module.def("cuda_device_info", &device_info_dict, py::arg("index") = 0,
             "Name, compute_capability, multiprocessors, memory_bytes and l2_bytes of a GPU.");
}

}  // namespace tgv::bindings
