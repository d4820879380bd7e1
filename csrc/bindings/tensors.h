// Python buffers (numpy arrays; torch CPU tensors through .numpy()) as TensorViews, without a copy.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "base/tensor_view.h"

namespace tgv::bindings {

// A view that lives as long as the buffer's memory does: keep `buffer` referenced while the view is
// used (as an argument of the binding it is). Throws InvalidArgument, naming `argument`, on an
// element type the core does not know.
TensorView view_of(const pybind11::buffer& buffer, const std::string& argument);

// The elements of a view whose type has been matched.
template <class T>
T* data_of(const TensorView& view) {
  return static_cast<T*>(view.data);
}

// Throws InvalidArgument unless the memory of `out` and that of `in`, both contiguous, have no byte
// in common.
void check_apart(const std::string& out_name, const TensorView& out, const std::string& in_name,
                 const TensorView& in);

}  // namespace tgv::bindings
