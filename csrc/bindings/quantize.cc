#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <utility>

#include "base/errors.h"
#include "base/isa.h"
#include "base/match.h"
#include "base/thread_pool.h"
#include "bindings/bindings.h"
#include "bindings/tensors.h"
#include "kernels/cpu/quantize_int4.h"

namespace tgv::bindings {

namespace {

std::pair<int64_t, int64_t> quantize_int4(const py::buffer& qweight, const py::buffer& scales,
                                          const std::optional<py::buffer>& zeros,
                                          const py::buffer& error, const py::buffer& norm,
                                          const py::buffer& worst, const py::buffer& weight,
                                          int64_t group_size, int threads, const std::string& isa) {
  const TensorView w = view_of(weight, "weight");
  Sizes sizes;
  sizes.match("weight", w, {"N", "K"}, {DType::kF32});
  cpu::QuantizeInt4Params p;
  p.rows = sizes["N"];
  p.columns = sizes["K"];
  p.group_size = group_size;
  p.symmetric = !zeros.has_value();
  if (group_size < 1)
    throw InvalidArgument(tgv::concat("group_size is ", group_size, ", expected >= 1"));
  const int64_t groups = p.groups();

  const auto output = [&](const char* name, const py::buffer& buffer, int64_t columns,
                          DType dtype) {
    const TensorView view = view_of(buffer, name);
    sizes.match(name, view, {"N", columns}, {dtype}, Access::kWrite);
    return view;
  };
  p.weight = data_of<const float>(w);
  p.qweight = data_of<uint8_t>(output("qweight", qweight, (p.columns + 1) / 2, DType::kU8));
  p.scales = data_of<uint16_t>(output("scales", scales, groups, DType::kF16));
  if (zeros) p.zeros = data_of<uint8_t>(output("zeros", *zeros, groups, DType::kU8));
  p.error = data_of<float>(output("error", error, groups, DType::kF32));
  p.norm = data_of<float>(output("norm", norm, groups, DType::kF32));
  p.worst = data_of<float>(output("worst", worst, groups, DType::kF32));

  const Isa chosen = choose_isa(isa);
  py::gil_scoped_release release;
  ThreadPool pool(threads);
  const cpu::QuantizeInt4Verdict verdict = cpu::quantize_int4(p, pool, chosen);
  return {verdict.not_finite, verdict.overflow};
}

}  // namespace

void bind_quantize(py::module_& module) {
  module.def(
      "quantize_int4", &quantize_int4, py::arg("qweight"), py::arg("scales"), py::arg("zeros"),
      py::arg("error"), py::arg("norm"), py::arg("worst"), py::arg("weight"), py::arg("group_size"),
      py::arg("threads"), py::arg("isa") = "",
      "Quantise weight f32 [N, K] in groups of 32, 64 or 128 into qweight u8 [N, ceil(K/2)], "
      "scales\n"
      "f16 [N, groups], zeros u8 [N, groups] (unpacked; None: symmetric) and the records error, "
      "norm\n"
      "and worst f32 [N, groups]. isa: '' (the widest) or a name of isas(). Returns "
      "the\n"
      "first group (row * groups + group) that is not finite and the first whose scale passes\n"
      "float16, -1 for none. Raises InvalidArgumentError, UnsupportedError.");
}

}  // namespace tgv::bindings
