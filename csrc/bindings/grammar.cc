#include "bindings/grammar.h"

#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <vector>

#include "base/errors.h"
#include "bindings/bindings.h"
#include "engine/box_grammar.h"
#include "engine/guidance.h"

namespace tgv::bindings {

namespace {

using engine::BoxGrammar;
using engine::BoxVocabulary;
using engine::Guidance;

GrammarHandle box_grammar(const std::vector<py::bytes>& token_bytes) {
  const std::vector<std::string> texts = strings_of(token_bytes);
  py::gil_scoped_release release;
  return GrammarHandle(std::make_shared<BoxGrammar>(std::make_shared<BoxVocabulary>(texts)));
}

std::shared_ptr<Guidance> open_guidance(const std::string& path,
                                        const std::vector<py::bytes>& token_bytes) {
  const std::vector<std::string> texts = strings_of(token_bytes);
  py::gil_scoped_release release;
  return std::const_pointer_cast<Guidance>(Guidance::open(path, texts));  // all it has is const
}

GrammarHandle compile(const Guidance& self, const std::string& kind, const std::string& text) {
  py::gil_scoped_release release;
  return GrammarHandle(self.compile(kind, text));
}

// One row, stepped by hand: for tests and benchmarks.
class GrammarRow {
 public:
  explicit GrammarRow(const GrammarHandle& grammar)
      : grammar_(grammar.start()->copy()), mask_(engine::mask_words(grammar_->vocab())) {}

  bool fill(int64_t left) { return grammar_->allow(mask_, left); }
  std::vector<int32_t> ids() const {
    std::vector<int32_t> out;
    for (int32_t id = 0; id < grammar_->vocab(); ++id) {
      if (engine::is_allowed(mask_, id)) out.push_back(id);
    }
    return out;
  }
  void accept(int32_t id) {
    if (id < 0 || id >= grammar_->vocab()) {
      throw InvalidArgument(concat("id is ", id, ", expected 0..", grammar_->vocab() - 1));
    }
    grammar_->accept(id);
  }
  void take_back(int64_t count) { grammar_->take_back(count); }
  bool is_over() const { return grammar_->is_over(); }

 private:
  std::unique_ptr<engine::Grammar> grammar_;
  std::vector<uint32_t> mask_;
};

}  // namespace

void bind_grammar(py::module_& module) {
  py::class_<GrammarHandle>(
      module, "Grammar", "What the ids of a row are held to; given to Engine.submit. Immutable.");
  module.def(
      "box_grammar", &box_grammar, py::arg("token_bytes"),
      "Boxes {<x1><y1><x2><y2>} that parse by construction, over the text of each id. Raises\n"
      "InvalidArgumentError if the ids cannot write them.");
  py::class_<Guidance, std::shared_ptr<Guidance>>(
      module, "Guidance",
      "A vocabulary in the library llguidance, whose shared library is at `path`.")
      .def(py::init(&open_guidance), py::arg("path"), py::arg("token_bytes"))
      .def("compile", &compile, py::arg("kind"), py::arg("text"),
           "kind: 'json_schema' or 'regex'. Raises InvalidArgumentError with the library's words.");
  py::class_<GrammarRow>(module, "GrammarRow", "One row of a grammar, stepped by hand.")
      .def(py::init<const GrammarHandle&>(), py::arg("grammar"))
      .def(
          "fill", &GrammarRow::fill, py::arg("left"),
          "Makes the mask of the next id, with `left` ids still to come, itself included; returns\n"
          "whether the row may end here.")
      .def("ids", &GrammarRow::ids, "The ids that the mask allows.")
      .def("accept", &GrammarRow::accept, py::arg("id"))
      .def("take_back", &GrammarRow::take_back, py::arg("count"))
      .def("is_over", &GrammarRow::is_over, "Whether nothing but the end can follow.");
}

}  // namespace tgv::bindings
