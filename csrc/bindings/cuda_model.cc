#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "bindings/bindings.h"
#include "bindings/cuda_kinds.h"
#include "bindings/model.h"
#include "bindings/weight_sources.h"
#include "engine/engine.h"
#include "model/cuda_backend.h"
#include "model/cuda_emulation.h"

namespace tgv::bindings {

namespace {

using model::CudaForm;
using model::CudaForms;
using IntDict = py::typing::Dict<py::str, py::int_>;
using OptionalBuffer = std::optional<py::buffer>;
using Bits = py::array_t<uint16_t, py::array::c_style>;

CudaForm form_of(const std::string& kind) {
  if (kind == "int4") return CudaForm::kInt4;
  if (kind == "int8") return CudaForm::kInt8;
  if (kind == "f16") return CudaForm::kF16;
  if (kind == "bf16") return CudaForm::kBF16;
  if (kind == "f32") return CudaForm::kF32;
  throw InvalidArgument(tgv::concat("form is '", kind.substr(0, 40),
                                    "', expected 'int4', 'int8', 'bf16', 'f16' or 'f32' on a GPU"));
}

CudaForms::Matrix matrix_form(const FormTuple& form) {
  const auto& [kind, group_size, symmetric] = form;
  check_range("group_size", group_size, 1, 1024);
  return {form_of(kind), static_cast<int>(group_size), symmetric};
}

CudaForms forms_of(const py::dict& fields) {
  CudaForms forms;
  forms.body = matrix_form(taken<FormTuple>(fields, "body", "forms"));
  forms.head = matrix_form(taken<FormTuple>(fields, "head", "forms"));
  forms.embedding =
      embedding_kind("forms.embedding", taken<std::string>(fields, "embedding", "forms"));
  return forms;
}

// The CPU's plan of the same tensors, for their sizes alone.
model::Plan plan_of(const model::Architecture& architecture, const CudaForms& forms) {
  const auto like = [](const CudaForms::Matrix& form) {
    const auto kind = form.form == CudaForm::kInt4 ? cpu::WeightKind::kInt4 : cpu::WeightKind::kF32;
    return model::Forms::Matrix{kind, form.group, form.symmetric};
  };
  return model::Plan(architecture, {like(forms.body), like(forms.head), cpu::EmbeddingKind::kF32});
}

class CudaWeightsHandle final : public ModelHandle {
 public:
  CudaWeightsHandle(const py::dict& architecture, const py::dict& forms, std::string id,
                    const std::string& emulation)
      : forms_(forms_of(forms)), plan_(plan_of(architecture_of(architecture), forms_)) {
    py::gil_scoped_release release;
    model_ = std::make_shared<model::CudaModel>(model::cuda_table_of(emulation),
                                                plan_.architecture(), forms_, std::move(id));
  }

  std::shared_ptr<const model::LoadedModel> loaded() override {
    model_->check_complete();
    is_complete_ = true;
    return model_;
  }

  const model::CudaModel& model() const { return *model_; }
  MatrixSize size(const std::string& name) const { return size_of(plan_, name); }

  void put(const std::string& name, const model::MatrixSource& source) {
    model::CudaModel& model = filling();
    py::gil_scoped_release release;
    name == "text.embed" ? model.put_embedding(source) : model.put_matrix(name, source);
  }

  void put_vector(const std::string& name, const py::buffer& values) {
    const std::span<const float> source = vector_source(values);
    model::CudaModel& model = filling();
    py::gil_scoped_release release;
    model.put_vector(name, source);
  }

  void check_zeros(const std::string& name, bool given) const {
    const bool symmetric = (name == "text.head" ? forms_.head : forms_.body).symmetric;
    if (given == symmetric) {
      throw InvalidArgument(tgv::concat(name, " is given ", given ? "with" : "without",
                                        " zeros, but its form is ",
                                        symmetric ? "symmetric" : "asymmetric"));
    }
  }

 private:
  model::CudaModel& filling() {
    if (is_complete_) throw InvalidArgument("these weights are complete and cannot be changed");
    return *model_;
  }

  const CudaForms forms_;
  const model::Plan plan_;
  std::shared_ptr<model::CudaModel> model_;
  bool is_complete_ = false;
};

using Steps = std::optional<std::pair<int64_t, int64_t>>;  // tokens, rows of logits

IntDict memory_plan(const py::dict& architecture, const py::dict& forms, const std::string& kv_kind,
                    int64_t kv_tokens, int64_t max_sequences, const Steps& steps,
                    const std::string& emulation) {
  const model::Architecture a = architecture_of(architecture);
  const CudaForms f = forms_of(forms);
  engine::EngineOptions options;
  options.kv_kind = kv::parse_kind(kv_kind);
  options.kv_tokens = kv_tokens;
  options.max_sequences = max_sequences;
  model::BackendOptions sizes = engine::backend_options(a, options);
  if (steps) {
    sizes.max_tokens = sizes.max_segments = steps->first;
    sizes.max_logit_rows = steps->second;
  }
  model::CudaMemoryPlan plan;
  {
    py::gil_scoped_release release;
    plan = model::plan_cuda_memory(model::cuda_table_of(emulation), a, f, sizes);
  }
  IntDict out;
  out["weights_bytes"] = plan.weights_bytes;
  out["kv_bytes"] = plan.pages_bytes;
  out["arena_bytes"] = plan.arena_bytes;
  out["pinned_bytes"] = plan.pinned_bytes;
  out["free_bytes"] = plan.free_bytes;
  out["total_bytes"] = plan.total_bytes;
  return out;
}

}  // namespace

void bind_cuda_model(py::module_& module) {
  py::class_<CudaWeightsHandle, ModelHandle>(
      module, "CudaWeights",
      "The weights of a backbone on a GPU; internal, it may change without notice. Filled as\n"
      "Weights is. Raises CapacityError where the GPU has no room for them.")
      .def(py::init<const py::dict&, const py::dict&, std::string, const std::string&>(),
           py::arg("architecture"), py::arg("forms"), py::arg("id"), py::kw_only(),
           py::arg("emulation") = "",
           "As of Weights, where a matrix is 'int4', 'int8', 'bf16', 'f16' or 'f32' and the\n"
           "embedding 'int8', 'f16', 'bf16' or 'f32'. emulation: the path of the CUDA library "
           "compiled for the\n"
           "host, for tests. Raises UnsupportedError where no GPU can be used.")
      .def(
          "put_int4",
          [](CudaWeightsHandle& self, const std::string& name, const py::buffer& qweight,
             const py::buffer& scales, const OptionalBuffer& zeros) {
            const MatrixSize size = self.size(name);
            self.check_zeros(name, zeros.has_value());
            self.put(name, int4_source(size, qweight, scales, zeros));
          },
          py::arg("name"), py::arg("qweight"), py::arg("scales"), py::arg("zeros") = py::none(),
          "qweight u8 [N, ceil(K/2)], scales f16 [N, ceil(K/G)], zeros u8 packed likewise.")
      .def(
          "put_int8",
          [](CudaWeightsHandle& self, const std::string& name, const py::buffer& qweight,
             const py::buffer& scales) {
            self.put(name, int8_source(self.size(name), qweight, scales));
          },
          py::arg("name"), py::arg("qweight"), py::arg("scales"),
          "qweight i8 [N, K], scales f32 [N].")
      .def(
          "put_f32",
          [](CudaWeightsHandle& self, const std::string& name, const py::buffer& values) {
            self.put(name, f32_source(self.size(name), values));
          },
          py::arg("name"), py::arg("values"), "values f32 [N, K]; an f16 or bf16 form rounds them.")
      .def(
          "put_bf16",
          [](CudaWeightsHandle& self, const std::string& name, const Bits& bits) {
            self.put(name, bf16_source(self.size(name), bits));
          },
          py::arg("name"), py::arg("bits"), "bits u16 [N, K], codes of bfloat16.")
      .def("put_vector", &CudaWeightsHandle::put_vector, py::arg("name"), py::arg("values"),
           "values f32 [N].")
      .def_property_readonly("id", [](const CudaWeightsHandle& self) { return self.model().id(); })
      .def_property_readonly("bytes",
                             [](const CudaWeightsHandle& self) { return self.model().bytes(); });
  module.def("cuda_memory_plan", &memory_plan, py::arg("architecture"), py::arg("forms"),
             py::kw_only(), py::arg("kv_kind"), py::arg("kv_tokens"), py::arg("max_sequences") = 8,
             py::arg("steps") = py::none(), py::arg("emulation") = "",
             "Bytes that CudaWeights of these and an Engine over them would take on the GPU\n"
             "(weights_bytes, kv_bytes, arena_bytes) and pinned on the host (pinned_bytes), and\n"
             "what the GPU has (free_bytes, total_bytes). steps: of a Decoder with so many\n"
             "max_tokens and max_logit_rows instead of an Engine. Allocates nothing.");
}

}  // namespace tgv::bindings
