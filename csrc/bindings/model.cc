#include "bindings/model.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "base/errors.h"
#include "base/topology.h"
#include "bindings/bindings.h"
#include "bindings/caller.h"
#include "bindings/weight_sources.h"
#include "model/cpu_backend.h"
#include "model/random_weights.h"

namespace tgv::bindings {

model::Weights& WeightsHandle::filling() {
  if (complete_) throw InvalidArgument("these weights are complete and cannot be changed");
  return *filling_;
}

const std::shared_ptr<const model::Weights>& WeightsHandle::complete() {
  if (!complete_) {
    filling_->check_complete();
    complete_ = std::move(filling_);
  }
  return complete_;
}

std::shared_ptr<const model::LoadedModel> WeightsHandle::loaded() {
  return std::make_shared<model::CpuModel>(complete());
}

namespace {

using cpu::WeightKind;
using AnyDict = py::typing::Dict<py::str, py::object>;

// --- from Python -------------------------------------------------------------------------------
model::Forms::Matrix matrix_form(const FormTuple& form) {
  const auto& [kind, group_size, symmetric] = form;
  return {weight_kind_of("form", kind), group_size, symmetric};
}

model::Forms forms_of(const py::dict& fields) {
  model::Forms forms;
  forms.body = matrix_form(taken<FormTuple>(fields, "body", "forms"));
  forms.head = matrix_form(taken<FormTuple>(fields, "head", "forms"));
  switch (weight_kind_of("form", taken<std::string>(fields, "embedding", "forms"))) {
    case WeightKind::kInt8:
      forms.embedding = cpu::EmbeddingKind::kInt8;
      return forms;
    case WeightKind::kBF16:
      forms.embedding = cpu::EmbeddingKind::kBF16;
      return forms;
    case WeightKind::kF32:
      forms.embedding = cpu::EmbeddingKind::kF32;
      return forms;
    case WeightKind::kInt4:
      break;
  }
  throw InvalidArgument("forms.embedding is 'int4', expected 'int8', 'bf16' or 'f32'");
}

int threads_or_all(int threads) { return threads == 0 ? physical_cores() : threads; }

// --- Weights -----------------------------------------------------------------------------------
void put(WeightsHandle& handle, const std::string& name, const model::MatrixSource& source,
         int threads) {
  model::Weights& weights = handle.filling();
  py::gil_scoped_release release;
  if (name == "text.embed") return weights.put_embedding(source);
  ThreadPool& pool = caller().pool(threads_or_all(threads));
  weights.put_matrix(name, source, pool);
}

MatrixSize size_in(const WeightsHandle& handle, const std::string& name) {
  return size_of(handle.any().plan(), name);
}

void put_int4(WeightsHandle& handle, const std::string& name, const py::buffer& qweight,
              const py::buffer& scales, const std::optional<py::buffer>& zeros, int threads) {
  put(handle, name, int4_source(size_in(handle, name), qweight, scales, zeros), threads);
}

void put_int8(WeightsHandle& handle, const std::string& name, const py::buffer& qweight,
              const py::buffer& scales, int threads) {
  put(handle, name, int8_source(size_in(handle, name), qweight, scales), threads);
}

void put_f32(WeightsHandle& handle, const std::string& name, const py::buffer& values,
             int threads) {
  put(handle, name, f32_source(size_in(handle, name), values), threads);
}

void put_bf16(WeightsHandle& handle, const std::string& name,
              const py::array_t<uint16_t, py::array::c_style>& bits, int threads) {
  put(handle, name, bf16_source(size_in(handle, name), bits), threads);
}

void put_vector(WeightsHandle& handle, const std::string& name, const py::buffer& values) {
  handle.filling().put_vector(name, vector_source(values));
}

model::Weights::Mode load_mode(const std::string& name) {
  if (name == "read") return model::Weights::Mode::kRead;
  if (name == "map") return model::Weights::Mode::kMap;
  if (name == "streamed") return model::Weights::Mode::kReadStreamed;
  throw InvalidArgument(
      tgv::concat("mode is '", name.substr(0, 40), "', expected 'read', 'streamed' or 'map'"));
}

WeightsHandle load(const std::string& path, const std::string& id, const std::string& mode,
                   int threads) {
  const model::Weights::Mode chosen = load_mode(mode);
  py::gil_scoped_release release;
  ThreadPool& pool = caller().pool(threads_or_all(threads));
  return WeightsHandle(model::Weights::load(path, id, chosen, pool));
}

void save(WeightsHandle& handle, const std::string& path, int threads) {
  const auto weights = handle.complete();
  py::gil_scoped_release release;
  ThreadPool& pool = caller().pool(threads_or_all(threads));
  weights->save(path, pool);
}

WeightsHandle random(const py::dict& architecture, const py::dict& forms, uint64_t seed,
                     int threads) {
  const model::Architecture a = architecture_of(architecture);
  const model::Forms f = forms_of(forms);
  py::gil_scoped_release release;
  ThreadPool& pool = caller().pool(threads_or_all(threads));
  return WeightsHandle(model::random_weights(a, f, seed, pool));
}

std::vector<std::tuple<std::string, std::string, std::vector<int64_t>>> entries(
    const WeightsHandle& handle) {
  std::vector<std::tuple<std::string, std::string, std::vector<int64_t>>> out;
  for (const model::Entry& entry : handle.any().plan().entries()) {
    if (entry.role == model::Role::kMatrix) {
      out.emplace_back(entry.name, cpu::weight_kind_name(entry.matrix.kind),
                       std::vector<int64_t>{entry.matrix.rows, entry.matrix.columns});
    } else if (entry.role == model::Role::kEmbedding) {
      constexpr const char* names[] = {"f32", "bf16", "int8"};
      out.emplace_back(entry.name, names[static_cast<int>(handle.any().plan().forms().embedding)],
                       std::vector<int64_t>{entry.rows, entry.columns});
    } else {
      out.emplace_back(entry.name, "f32", std::vector<int64_t>{entry.rows});
    }
  }
  return out;
}

void bind_weights(py::module_& module) {
  py::class_<ModelHandle>(module, "LoadedModel",
                          "The weights of a backbone on some device; internal.");
  py::class_<WeightsHandle, ModelHandle>(
      module, "Weights",
      "The packed weights of a backbone; internal, it may change without notice. Filled tensor by\n"
      "tensor with the names of docs/architecture.md, matrices and the embedding without\n"
      "'.weight'. Raises InvalidArgumentError for a tensor that does not fit, or is put twice.")
      .def(
          py::init([](const py::dict& architecture, const py::dict& forms, std::string id) {
            const model::Plan plan(architecture_of(architecture), forms_of(forms));
            return WeightsHandle(std::make_shared<model::Weights>(plan, std::move(id)));
          }),
          py::arg("architecture"), py::arg("forms"), py::arg("id"),
          "architecture: the fields of TextConfig; forms: {'body': (kind, group_size, symmetric),\n"
          "'head': the same, 'embedding': kind}; id: up to 64 characters.")
      .def_static(
          "load", &load, py::arg("path"), py::arg("id") = "", py::arg("mode") = "read",
          py::arg("threads") = 0,
          "Read what save() wrote. id: what it must hold, '' takes any. mode: 'read' into\n"
          "huge pages, 'streamed' the same but for the token embedding, which stays in the\n"
          "file, or 'map' to share the file. Nobody may change a mapped file in place.")
      .def_static("random", &random, py::arg("architecture"), py::arg("forms"), py::arg("seed") = 0,
                  py::arg("threads") = 0, "Complete random weights of these sizes, for benchmarks.")
      .def("put_int4", &put_int4, py::arg("name"), py::arg("qweight"), py::arg("scales"),
           py::arg("zeros") = py::none(), py::arg("threads") = 0,
           "qweight u8 [N, ceil(K/2)], scales f16 [N, ceil(K/G)], zeros u8 packed likewise.")
      .def("put_int8", &put_int8, py::arg("name"), py::arg("qweight"), py::arg("scales"),
           py::arg("threads") = 0, "qweight i8 [N, K], scales f32 [N].")
      .def("put_f32", &put_f32, py::arg("name"), py::arg("values"), py::arg("threads") = 0,
           "values f32 [N, K]; a bf16 form rounds them.")
      .def("put_bf16", &put_bf16, py::arg("name"), py::arg("bits"), py::arg("threads") = 0,
           "bits u16 [N, K]: the codes of bfloat16.")
      .def("put_vector", &put_vector, py::arg("name"), py::arg("values"), "values f32 [N].")
      .def("save", &save, py::arg("path"), py::arg("threads") = 0,
           "Write a file, atomically. Raises if a tensor is missing.")
      .def("entries", &entries, "Name, kind and shape of every tensor, in memory order.")
      .def_property_readonly("id", [](const WeightsHandle& self) { return self.any().id(); })
      .def_property_readonly("bytes",
                             [](const WeightsHandle& self) { return self.any().plan().bytes(); })
      .def_property_readonly(
          "step_bytes", [](const WeightsHandle& self) { return self.any().plan().step_bytes(); })
      .def_property_readonly("mapped",
                             [](const WeightsHandle& self) { return self.any().is_mapped(); });
}

}  // namespace

void bind_model(py::module_& module) {
  bind_weights(module);
  bind_cuda_model(module);
  bind_decoder(module);
}

}  // namespace tgv::bindings
