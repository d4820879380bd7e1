#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "base/errors.h"
#include "base/float16.h"
#include "bindings/bindings.h"
#include "kernels/cuda/half_gemm.h"
#include "kernels/cuda/int4_gemv.h"
#include "kernels/cuda/int8_gemm.h"

namespace tgv::bindings {

namespace {

template <class T>
using Array = py::array_t<T, py::array::c_style>;
using Words = py::array_t<uint32_t>;

constexpr int64_t kMostElements = int64_t{1} << 40;  // of a matrix: sums of sizes stay exact

template <class T>
void check_shape(const char* name, const Array<T>& array, int64_t rows, int64_t columns) {
  if (array.ndim() != 2 || array.shape(0) != rows || array.shape(1) != columns) {
    throw InvalidArgument(
        tgv::concat(name, " has another shape, expected [", rows, ", ", columns, "]"));
  }
}

template <class T>
void check_matrix(const char* name, const Array<T>& array) {
  if (array.ndim() != 2 || array.shape(0) < 1 || array.shape(1) < 1) {
    throw InvalidArgument(tgv::concat(name, " is not a matrix, expected [N, K], both >= 1"));
  }
  check_range(name, array.size(), 1, kMostElements);
}

uint8_t nibble(const uint8_t* row, int64_t i) {
  return static_cast<uint8_t>(row[i / 2] >> (i % 2 * 4) & 15);
}

Words pack_groups(const Half* values, int64_t rows, int64_t columns, int group) {
  Words out(cuda::int4_gemv_scale_words(rows, columns, group));
  cuda::int4_gemv_pack_groups(out.mutable_data(), values, rows, columns, group);
  return out;
}

py::tuple pack_int4(const Array<uint8_t>& qweight, const Array<uint16_t>& scales,
                    const std::optional<Array<uint8_t>>& zeros, int64_t columns, int64_t group) {
  check_matrix("qweight", qweight);
  if (group != 32 && group != 64 && group != 128) {
    throw InvalidArgument(tgv::concat("group_size is ", group, ", expected 32, 64 or 128"));
  }
  check_range("columns", columns, 1, kMostElements);
  const int64_t rows = qweight.shape(0), groups = (columns + group - 1) / group;
  check_shape("qweight", qweight, rows, (columns + 1) / 2);
  check_shape("scales", scales, rows, groups);
  if (zeros) check_shape("zeros", *zeros, rows, (groups + 1) / 2);
  const int g = static_cast<int>(group);

  std::vector<uint8_t> codes(static_cast<size_t>(rows * columns));
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t k = 0; k < columns; ++k) {
      codes[static_cast<size_t>(row * columns + k)] = nibble(qweight.data(row, 0), k);
    }
  }
  Words words(cuda::int4_gemv_weight_words(rows, columns, g));
  cuda::int4_gemv_pack_weights(words.mutable_data(), codes.data(), rows, columns, g);
  const Words packed_scales =
      pack_groups(reinterpret_cast<const Half*>(scales.data()), rows, columns, g);
  if (!zeros) return py::make_tuple(words, packed_scales, py::none());
  std::vector<Half> levels(static_cast<size_t>(rows * groups));
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t i = 0; i < groups; ++i) {
      const float level = nibble(zeros->data(row, 0), i);
      levels[static_cast<size_t>(row * groups + i)] = {float_to_half(level)};
    }
  }
  return py::make_tuple(words, packed_scales, pack_groups(levels.data(), rows, columns, g));
}

Words pack_int8(const Array<int8_t>& q) {
  check_matrix("qweight", q);
  Words out(cuda::int8_gemm_weight_words(q.shape(0), q.shape(1)));
  cuda::int8_gemm_pack_weights(out.mutable_data(), q.data(), q.shape(0), q.shape(1));
  return out;
}

Words pack_half(const Array<uint16_t>& w) {
  check_matrix("weight", w);
  Words out(cuda::half_gemm_weight_words(w.shape(0), w.shape(1)));
  cuda::half_gemm_pack_weights(out.mutable_data(), w.data(), w.shape(0), w.shape(1));
  return out;
}

}  // namespace

void bind_cuda_packing(py::module_& module) {
  module.def("cuda_int4_pack", &pack_int4, py::arg("qweight"), py::arg("scales"), py::arg("zeros"),
             py::arg("columns"), py::arg("group_size"),
             "(weights, scales, zeros or None), u32 words, in the order the GPU's int4 kernels "
             "read, of\nqweight u8 [N, ceil(K/2)], scales u16 [N, ceil(K/G)] (bits of f16) and "
             "zeros u8\n[N, ceil(ceil(K/G)/2)] or None. Raises InvalidArgumentError.");
  module.def("cuda_int8_pack", &pack_int8, py::arg("qweight"),
             "u32 words of qweight i8 [N, K] in the order the GPU's int8 kernel reads.");
  module.def("cuda_half_pack", &pack_half, py::arg("weight"),
             "u32 words of weight u16 [N, K] (bits of f16 or bf16) in the order the GPU's kernel "
             "reads.");
}

}  // namespace tgv::bindings
