// What Python gives to fill the weights of any device with, checked against the sizes of a tensor.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <span>
#include <string>
#include <tuple>

#include "base/errors.h"
#include "kernels/cpu/linear.h"
#include "model/matrix_source.h"
#include "model/plan.h"

namespace tgv::bindings {

namespace py = pybind11;

using FormTuple = std::tuple<std::string, int64_t, bool>;  // kind, group size, symmetric

// fields[name]; throws InvalidArgument, calling the dict `what`.
template <class T>
T taken(const py::dict& fields, const char* name, const char* what) {
  if (!fields.contains(name)) throw InvalidArgument(tgv::concat(what, " has no '", name, "'"));
  try {
    return fields[name].cast<T>();
  } catch (const py::cast_error&) {
    throw InvalidArgument(tgv::concat(what, ".", name, " is ",
                                      py::repr(fields[name]).cast<std::string>().substr(0, 80),
                                      ", which is of another type than expected"));
  }
}

// Throws InvalidArgument, naming `argument`, for a name that is none.
cpu::WeightKind weight_kind_of(const std::string& argument, const std::string& name);

model::Architecture architecture_of(const py::dict& fields);  // of a TextConfig

struct MatrixSize {
  int64_t rows = 0, columns = 0;  // [N, K]
  int64_t group = 0;              // of int4
};

// Of a matrix or of the embedding, which has no group. Throws InvalidArgument for other names.
MatrixSize size_of(const model::Plan& plan, const std::string& name);

// Sources that point into the buffers. All throw InvalidArgument.
model::MatrixSource int4_source(const MatrixSize& size, const py::buffer& qweight,
                                const py::buffer& scales, const std::optional<py::buffer>& zeros);
model::MatrixSource int8_source(const MatrixSize& size, const py::buffer& qweight,
                                const py::buffer& scales);
model::MatrixSource f32_source(const MatrixSize& size, const py::buffer& values);
// numpy has no bfloat16: its bits come as int16 or uint16.
model::MatrixSource bf16_source(const MatrixSize& size,
                                const py::array_t<uint16_t, py::array::c_style>& bits);
std::span<const float> vector_source(const py::buffer& values);

}  // namespace tgv::bindings
