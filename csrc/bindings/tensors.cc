#include "bindings/tensors.h"

#include "base/errors.h"

namespace tgv::bindings {

namespace {

// The dtype of a buffer-protocol element ("f", "<e", ...), or InvalidArgument.
DType dtype_of(const pybind11::buffer_info& info, const std::string& argument) {
  const std::string code = info.format.empty() ? "" : info.format.substr(info.format.size() - 1);
  const bool native_order = info.format.find_first_of(">!") == std::string::npos;
  if (native_order) {
    if (code == "f" && info.itemsize == 4) return DType::kF32;
    if (code == "e" && info.itemsize == 2) return DType::kF16;
    if (code == "b" && info.itemsize == 1) return DType::kI8;
    if (code == "B" && info.itemsize == 1) return DType::kU8;
    if (code == "i" && info.itemsize == 4) return DType::kI32;
    if ((code == "l" || code == "q") && info.itemsize == 8) return DType::kI64;
  }
  throw InvalidArgument(concat(argument, " has elements of buffer format '", info.format,
                               "', expected float32, float16, int8, uint8, int32 or int64"));
}

}  // namespace

TensorView view_of(const pybind11::buffer& buffer, const std::string& argument) {
  const pybind11::buffer_info info = buffer.request();
  TensorView view;
  view.data = info.ptr;
  view.dtype = dtype_of(info, argument);
  view.read_only = info.readonly;
  for (pybind11::ssize_t i = 0; i < info.ndim; ++i) {
    view.shape.push_back(info.shape[static_cast<size_t>(i)]);
    const int64_t stride_bytes = info.strides[static_cast<size_t>(i)];
    if (stride_bytes % info.itemsize) {
      throw InvalidArgument(concat(argument, " has a stride of ", stride_bytes,
                                   " bytes, expected a multiple of ", info.itemsize));
    }
    view.strides_elems.push_back(stride_bytes / info.itemsize);
  }
  return view;
}

void check_apart(const std::string& out_name, const TensorView& out, const std::string& in_name,
                 const TensorView& in) {
  const auto begin = [](const TensorView& v) { return reinterpret_cast<uintptr_t>(v.data); };
  const auto end = [&](const TensorView& v) {
    return begin(v) + static_cast<uintptr_t>(v.elements() * dtype_bytes(v.dtype));
  };
  if (begin(out) < end(in) && begin(in) < end(out)) {
    throw InvalidArgument(
        concat(out_name, " shares memory with ", in_name, ", expected memory of its own"));
  }
}

}  // namespace tgv::bindings
