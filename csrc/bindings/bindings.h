// The parts of the _native module; each file of bindings/ adds its own functions.
#pragma once

#include <pybind11/pybind11.h>

namespace tgv::bindings {

namespace py = pybind11;

void bind_machine(py::module_& module);       // CPU features, cores, bandwidth, build
void bind_cuda(py::module_& module);          // what a GPU here can do
void bind_cuda_ops(py::module_& module);      // single kernels, on a stream of the caller's
void bind_cuda_packing(py::module_& module);  // weights in the order those kernels read
void bind_kv(py::module_& module);            // the KV cache, for tests and tools
void bind_quantize(py::module_& module);      // int4 scale search
void bind_grammar(py::module_& module);       // what answers are held to; before the engine
void bind_prefix_pages(py::module_& module);  // keys and values carried; before the engine
void bind_engine(py::module_& module);        // requests
void bind_model(py::module_& module);         // weights and the decoder step
void bind_attention(py::module_& module);     // qkv_append, paged_attention
void bind_norm(py::module_& module);
void bind_embedding(py::module_& module);
void bind_sampling(py::module_& module);
void bind_matmul(py::module_& module);        // products and packing
void bind_linear_probe(py::module_& module);  // what the matrices of a step cost

}  // namespace tgv::bindings
