#include "base/tensor_view.h"

#include <utility>

#include "base/errors.h"

namespace tgv {

namespace {

std::vector<int64_t> row_major_strides(const std::vector<int64_t>& shape) {
  std::vector<int64_t> strides(shape.size());
  int64_t next = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    strides[i] = next;
    next *= shape[i];
  }
  return strides;
}

}  // namespace

const char* dtype_name(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "f32";
    case DType::kF16:
      return "f16";
    case DType::kBF16:
      return "bf16";
    case DType::kI8:
      return "i8";
    case DType::kU8:
      return "u8";
    case DType::kI32:
      return "i32";
    case DType::kI64:
      return "i64";
  }
  throw InvalidArgument(concat("dtype is ", static_cast<int>(dtype), ", expected a DType"));
}

int64_t dtype_bytes(DType dtype) {
  switch (dtype) {
    case DType::kI8:
    case DType::kU8:
      return 1;
    case DType::kF16:
    case DType::kBF16:
      return 2;
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kI64:
      return 8;
  }
  throw InvalidArgument(concat("dtype is ", static_cast<int>(dtype), ", expected a DType"));
}

TensorView TensorView::contiguous(void* data, DType dtype, std::vector<int64_t> shape,
                                  bool read_only) {
  TensorView view;
  view.data = data;
  view.dtype = dtype;
  view.strides_elems = row_major_strides(shape);
  view.shape = std::move(shape);
  view.read_only = read_only;
  return view;
}

int64_t TensorView::elements() const {
  int64_t count = 1;
  for (int64_t size : shape) count *= size;
  return count;
}

bool TensorView::is_contiguous() const {
  if (elements() == 0) return true;
  const std::vector<int64_t> expected = row_major_strides(shape);
  for (size_t i = 0; i < shape.size(); ++i) {
    if (shape[i] > 1 && strides_elems[i] != expected[i]) return false;
  }
  return true;
}

std::string TensorView::describe() const {
  std::ostringstream out;
  out << '[';
  for (size_t i = 0; i < shape.size(); ++i) out << (i ? "," : "") << shape[i];
  out << "] " << dtype_name(dtype);
  if (!is_contiguous()) out << ", strided";
  if (read_only) out << ", read-only";
  return out.str();
}

}  // namespace tgv
