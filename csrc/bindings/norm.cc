#include "kernels/cpu/norm.h"

#include <pybind11/stl.h>

#include <cmath>
#include <optional>
#include <string>

#include "base/errors.h"
#include "base/match.h"
#include "bindings/bindings.h"
#include "bindings/tensors.h"

namespace tgv::bindings {

namespace {

void check_eps(float eps) {
  if (!(eps > 0) || !std::isfinite(eps)) {
    throw InvalidArgument(tgv::concat("eps is ", eps, ", expected a finite number > 0"));
  }
}

// Views of one problem, matched against [T, C] and [C].
struct Rows {
  Sizes sizes;

  const float* rows(const char* name, const py::buffer& buffer) {
    return matched(name, view_of(buffer, name), {"T", "C"}, Access::kRead);
  }
  const float* row(const char* name, const py::buffer& buffer) {
    return matched(name, view_of(buffer, name), {"C"}, Access::kRead);
  }
  // `out`, apart from all inputs unless it is x itself.
  float* out(const char* name, const py::buffer& buffer) {
    return matched(name, view_of(buffer, name), {"T", "C"}, Access::kWrite);
  }

 private:
  float* matched(const char* name, const TensorView& view, const std::vector<Dim>& dims,
                 Access access) {
    sizes.match(name, view, dims, {DType::kF32}, access);
    return static_cast<float*>(view.data);
  }
};

void check_width(const Rows& r) {
  if (r.sizes["C"] < 1) throw InvalidArgument("x is [T,C=0], expected C >= 1");
}

void layer_norm(const py::buffer& y, const py::buffer& x, const py::buffer& weight,
                const py::buffer& bias, float eps, const std::string& isa) {
  Rows r;
  const float* in = r.rows("x", x);
  const float *w = r.row("weight", weight), *b = r.row("bias", bias);
  float* out = r.out("out", y);
  check_width(r);
  check_eps(eps);
  if (out != in) check_apart("out", view_of(y, "out"), "x", view_of(x, "x"));
  check_apart("out", view_of(y, "out"), "weight", view_of(weight, "weight"));
  check_apart("out", view_of(y, "out"), "bias", view_of(bias, "bias"));
  const Isa chosen = choose_isa(isa);
  py::gil_scoped_release release;
  cpu::layer_norm(out, in, w, b, r.sizes["C"], eps, r.sizes["T"], chosen);
}

void rms_norm(const py::buffer& y, const py::buffer& x, const py::buffer& weight, float eps,
              const std::string& isa) {
  Rows r;
  const float *in = r.rows("x", x), *w = r.row("weight", weight);
  float* out = r.out("out", y);
  check_width(r);
  check_eps(eps);
  if (out != in) check_apart("out", view_of(y, "out"), "x", view_of(x, "x"));
  check_apart("out", view_of(y, "out"), "weight", view_of(weight, "weight"));
  const Isa chosen = choose_isa(isa);
  py::gil_scoped_release release;
  cpu::rms_norm(out, in, w, r.sizes["C"], eps, r.sizes["T"], chosen);
}

void add_branches(const py::buffer& x, const py::buffer& attention, const py::buffer& mlp,
                  const std::optional<py::buffer>& weight, float eps, const std::string& isa) {
  Rows r;
  float* out = r.out("x", x);
  const float *a = r.rows("attention", attention), *m = r.rows("mlp", mlp);
  const float* w = weight ? r.row("weight", *weight) : nullptr;
  check_width(r);
  check_eps(eps);
  check_apart("x", view_of(x, "x"), "attention", view_of(attention, "attention"));
  check_apart("x", view_of(x, "x"), "mlp", view_of(mlp, "mlp"));
  if (weight) check_apart("x", view_of(x, "x"), "weight", view_of(*weight, "weight"));
  const Isa chosen = choose_isa(isa);
  py::gil_scoped_release release;
  cpu::add_branches(out, a, w, eps, m, r.sizes["C"], r.sizes["T"], chosen);
}

}  // namespace

void bind_norm(py::module_& module) {
  module.def("layer_norm", &layer_norm, py::arg("out"), py::arg("x"), py::arg("weight"),
             py::arg("bias"), py::arg("eps"), py::arg("isa") = "",
             "out f32 [T, C] = layer norm of x f32 [T, C] with weight and bias f32 [C]; out may be "
             "x.\nRaises InvalidArgumentError, UnsupportedError.");
  module.def("rms_norm", &rms_norm, py::arg("out"), py::arg("x"), py::arg("weight"), py::arg("eps"),
             py::arg("isa") = "",
             "out f32 [T, C] = x / sqrt(mean(x^2) + eps) * weight f32 [C]; out may be x.\n"
             "Raises InvalidArgumentError, UnsupportedError.");
  module.def("add_branches", &add_branches, py::arg("x"), py::arg("attention"), py::arg("mlp"),
             py::arg("weight"), py::arg("eps"), py::arg("isa") = "",
             "x f32 [T, C] += rms_norm(attention) + mlp; weight None: += attention + mlp.\n"
             "Raises InvalidArgumentError, UnsupportedError.");
}

}  // namespace tgv::bindings
