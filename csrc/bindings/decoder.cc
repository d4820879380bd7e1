#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <ranges>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "base/errors.h"
#include "base/isa.h"
#include "base/match.h"
#include "base/thread_pool.h"
#include "base/topology.h"
#include "bindings/bindings.h"
#include "bindings/kv.h"
#include "bindings/model.h"
#include "bindings/tensors.h"
#include "kv/kv_cache.h"
#include "model/backend.h"

namespace tgv::bindings {

namespace {

using Part = std::tuple<int64_t, std::vector<int32_t>, int64_t>;  // sequence, ids, rows of logits

// Sequences in a cache of their own, and one decoder step over some of them for each call: what
// decides about tokens outside of the engine stands on it, and tests and benchmarks of the step.
class Stepper {
 public:
  Stepper(std::shared_ptr<const model::LoadedModel> model, const std::string& kv_kind,
          int64_t kv_tokens, int64_t max_tokens, int64_t max_logit_rows, int threads,
          const std::string& isa, bool graphs, bool early_starts)
      : model_(std::move(model)),
        pool_(threads == 0 ? physical_cores() : threads),
        backend_(model_->make_backend({cache_shape(kv_kind, kv_tokens), max_tokens, max_logit_rows,
                                       max_tokens, choose_isa(isa), graphs, early_starts},
                                      pool_)),
        cache_(backend_->pages(), model_->id()) {}

  int64_t start(int64_t max_length) {
    return cache_.reserve({std::vector<int64_t>{-++started_}, max_length - 1, 1});
  }

  // Either all of it has happened, or it throws and every sequence is as long as before.
  py::array_t<float> step(const std::vector<Part>& parts,
                          const std::optional<py::buffer>& embeddings) {
    const std::vector<std::vector<model::StepToken>> tokens = tokens_of(parts, embeddings);
    std::vector<std::pair<int64_t, int64_t>> before;  // sequence, length
    try {
      append(parts, before);
      run(parts, tokens, before);
    } catch (...) {
      for (const auto& [sequence, length] : std::views::reverse(before)) {
        cache_.truncate(sequence, length);
      }
      throw;
    }
    int64_t rows = 0;
    for (const Part& part : parts) rows += std::get<2>(part);
    const int64_t V = model_->architecture().vocab;
    py::array_t<float> out({rows, V});
    for (int64_t row = 0; row < rows; ++row) {
      std::copy_n(backend_->logits(row), V, out.mutable_data(row, 0));
    }
    return out;
  }

  void extend(int64_t sequence, int64_t max_length) { cache_.extend(sequence, max_length); }
  int64_t fork(int64_t sequence) { return cache_.fork(sequence); }
  void truncate(int64_t sequence, int64_t length) { cache_.truncate(sequence, length); }
  void release(int64_t sequence) { cache_.release(sequence); }
  int64_t length(int64_t sequence) const { return cache_.length(sequence); }
  kv::Counts counts() const { return cache_.counts(); }
  void check() const { cache_.check(); }
  int64_t arena_bytes() const { return backend_->arena_bytes(); }

 private:
  kv::Shape cache_shape(const std::string& kind, int64_t tokens) const {
    const model::Architecture& a = model_->architecture();
    return {(tokens + kv::kPageTokens - 1) / kv::kPageTokens, a.layers, a.heads, a.head_dim,
            kv::parse_kind(kind)};
  }

  // The rows of `embeddings` in the places of -1, in order; they live as long as the caller's.
  std::vector<std::vector<model::StepToken>> tokens_of(
      const std::vector<Part>& parts, const std::optional<py::buffer>& embeddings) const {
    const int64_t C = model_->architecture().width;
    const float* values = nullptr;
    int64_t given = 0, used = 0;
    if (embeddings) {
      Sizes sizes;
      const TensorView view = view_of(*embeddings, "embeddings");
      sizes.match("embeddings", view, {"n", "C"}, {DType::kF32});
      if (sizes["C"] != C) {
        throw InvalidArgument(
            tgv::concat("embeddings has rows of ", sizes["C"], ", expected C=", C));
      }
      given = sizes["n"];
      values = static_cast<const float*>(view.data);
    }
    std::vector<std::vector<model::StepToken>> tokens;
    for (const Part& part : parts) {
      tokens.emplace_back();
      for (const int32_t id : std::get<1>(part)) {
        if (id == -1 && used < given) {
          tokens.back().push_back({0, values + used * C});
        } else {
          tokens.back().push_back({id, nullptr});  // of what is no id the step complains
        }
        used += id == -1 ? 1 : 0;
      }
    }
    if (used != given) {
      throw InvalidArgument(tgv::concat("embeddings has ", given, " rows, expected ", used,
                                        ", the number of -1 in ids"));
    }
    return tokens;
  }

  void append(const std::vector<Part>& parts, std::vector<std::pair<int64_t, int64_t>>& before) {
    std::vector<int64_t> keys;
    before.reserve(parts.size());
    for (const auto& [sequence, ids, logit_rows] : parts) {
      keys.clear();
      for (size_t i = 0; i < ids.size(); ++i) keys.push_back(-++started_);  // no prefix is shared
      const int64_t length = cache_.length(sequence);
      cache_.append(sequence, keys);
      before.emplace_back(sequence, length);
    }
  }

  void run(const std::vector<Part>& parts, const std::vector<std::vector<model::StepToken>>& tokens,
           const std::vector<std::pair<int64_t, int64_t>>& before) {
    std::vector<model::Segment> segments;
    for (size_t i = 0; i < parts.size(); ++i) {
      const auto& [sequence, length] = before[i];
      segments.push_back({cache_.block_table(sequence), length, tokens[i], std::get<2>(parts[i])});
    }
    {
      py::gil_scoped_release release;
      backend_->step(segments, {}, nullptr);
    }
    for (const auto& [sequence, length] : before) cache_.commit(sequence);
  }

  const std::shared_ptr<const model::LoadedModel> model_;
  ThreadPool pool_;
  const std::unique_ptr<model::Backend> backend_;
  kv::KVCache cache_;
  int64_t started_ = 0;
};

}  // namespace

void bind_decoder(py::module_& module) {
  py::class_<Stepper>(
      module, "Decoder",
      "The decoder step alone, over sequences in a cache of its own; internal, it may change\n"
      "without notice. One call at a time. Raises InvalidArgumentError, CapacityError.")
      .def(py::init([](ModelHandle& weights, const std::string& kv_kind, int64_t kv_tokens,
                       int64_t max_tokens, int64_t max_logit_rows, int threads,
                       const std::string& isa, bool graphs, bool early_starts) {
             return std::make_unique<Stepper>(weights.loaded(), kv_kind, kv_tokens, max_tokens,
                                              max_logit_rows, threads, isa, graphs, early_starts);
           }),
           py::arg("weights"), py::kw_only(), py::arg("kv_kind") = "int8",
           py::arg("kv_tokens") = 2048, py::arg("max_tokens") = 256, py::arg("max_logit_rows") = 16,
           py::arg("threads") = 0, py::arg("isa") = "", py::arg("graphs") = true,
           py::arg("early_starts") = true,
           "graphs: on a GPU, capture the steps in which every sequence has one token;\n"
           "early_starts: there a kernel may start before the one before it is over.")
      .def("start", &Stepper::start, py::arg("max_length"),
           "A new, empty sequence, with room promised for so many positions.")
      .def("extend", &Stepper::extend, py::arg("sequence"), py::arg("max_length"),
           "Room for so many positions in all, if that is more than it has.")
      .def("fork", &Stepper::fork, py::arg("sequence"),
           "A sequence with the same positions and the same room, all pages shared.")
      .def(
          "step", &Stepper::step, py::arg("parts"), py::arg("embeddings") = py::none(),
          "parts: (sequence, ids, rows of logits wanted) each, a sequence once; id -1 takes the\n"
          "next row of embeddings f32 [n, C]. Returns logits f32 [rows, V]. If it raises, nothing\n"
          "was appended.")
      .def("truncate", &Stepper::truncate, py::arg("sequence"), py::arg("length"),
           "Forget the positions from `length` on.")
      .def("release", &Stepper::release, py::arg("sequence"), "Give everything back.")
      .def("length", &Stepper::length, py::arg("sequence"), "Positions of the sequence.")
      .def(
          "counts", [](const Stepper& self) { return counts_dict(self.counts()); },
          "Pages by state, what is promised, sequences, pages evicted so far.")
      .def("check", &Stepper::check, "Raises TinyGPTVError if the cache broke one of its rules.")
      .def_property_readonly("arena_bytes", &Stepper::arena_bytes);
}

}  // namespace tgv::bindings
