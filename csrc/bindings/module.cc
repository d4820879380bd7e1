// The Python module tinygptv_fast._native. Only bindings/ knows Python.
#include <string>

#include "base/errors.h"
#include "bindings/bindings.h"

namespace tgv::bindings {

namespace {

// Raises the class of tinygptv_fast.errors, so that `except TinyGPTVError` catches native errors
// too.
void raise(const char* class_name, const std::exception& error) {
  const py::object type = py::module_::import("tinygptv_fast.errors").attr(class_name);
  PyErr_SetString(type.ptr(), error.what());
}

void translate(std::exception_ptr pointer) {
  if (!pointer) return;
  try {
    std::rethrow_exception(pointer);
  } catch (const InvalidArgument& error) {
    raise("InvalidArgumentError", error);
  } catch (const Unsupported& error) {
    raise("UnsupportedError", error);
  } catch (const CapacityError& error) {
    raise("CapacityError", error);
  } catch (const ClosedError& error) {
    raise("ClosedError", error);
  } catch (const Error& error) {
    raise("TinyGPTVError", error);
  }
}

}  // namespace

}  // namespace tgv::bindings

PYBIND11_MODULE(_native, module) {
  module.doc() = "The native core of tinygptv_fast. Computation runs without the GIL.";
  pybind11::register_local_exception_translator(tgv::bindings::translate);
  tgv::bindings::bind_machine(module);
  tgv::bindings::bind_cuda(module);
  tgv::bindings::bind_cuda_ops(module);
  tgv::bindings::bind_cuda_packing(module);
  tgv::bindings::bind_kv(module);
  tgv::bindings::bind_quantize(module);
  tgv::bindings::bind_model(module);
  tgv::bindings::bind_attention(module);
  tgv::bindings::bind_grammar(module);
  tgv::bindings::bind_prefix_pages(module);
  tgv::bindings::bind_engine(module);
  tgv::bindings::bind_norm(module);
  tgv::bindings::bind_embedding(module);
  tgv::bindings::bind_sampling(module);
  tgv::bindings::bind_matmul(module);
  tgv::bindings::bind_linear_probe(module);
}
