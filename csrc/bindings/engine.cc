#include "engine/engine.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/errors.h"
#include "base/match.h"
#include "bindings/bindings.h"
#include "bindings/grammar.h"
#include "bindings/kv.h"
#include "bindings/model.h"
#include "bindings/prefix_pages.h"
#include "bindings/tensors.h"

namespace tgv::bindings {

namespace {

using engine::Engine;
using Ids = std::vector<int32_t>;
using OptionalBuffer = std::optional<py::buffer>;
using OptionalPages = std::optional<PagesHandle>;
using AnyDict = py::typing::Dict<py::str, py::object>;
using EventList = py::typing::List<py::tuple>;

// --- from Python -------------------------------------------------------------------------------
engine::Prompt prompt_of(const py::buffer& ids, const OptionalBuffer& embeddings,
                         const OptionalPages& pages) {
  engine::Prompt prompt;
  if (pages) prompt.pages = *pages;
  Sizes sizes;
  const TensorView i = view_of(ids, "ids");
  sizes.match("ids", i, {"T"}, {DType::kI32});
  const auto* first = static_cast<const int32_t*>(i.data);
  prompt.ids.assign(first, first + sizes["T"]);
  if (!embeddings) return prompt;
  const TensorView e = view_of(*embeddings, "embeddings");
  sizes.match("embeddings", e, {"n", "C"}, {DType::kF32});
  prompt.embedding_rows = sizes["n"];
  prompt.embedding_width = sizes["C"];
  const auto* value = static_cast<const float*>(e.data);
  prompt.embeddings.assign(value, value + sizes["n"] * sizes["C"]);
  return prompt;
}

uint64_t seed_of(const py::int_& seed) {
  try {
    return seed.cast<uint64_t>();
  } catch (const py::cast_error&) {
    throw InvalidArgument(tgv::concat("seed is ", py::str(seed).cast<std::string>().substr(0, 40),
                                      ", expected 0..2^64-1"));
  }
}

int64_t submit(Engine& self, engine::Submission&& submission) {
  py::gil_scoped_release release;
  return self.submit(std::move(submission));
}

std::unique_ptr<Engine> make_engine(ModelHandle& weights, int threads, const std::string& isa,
                                    const std::string& kv_kind, int64_t kv_tokens,
                                    int64_t max_sequences, int64_t prefill_chunk,
                                    const std::optional<std::vector<py::bytes>>& token_bytes,
                                    int64_t queue_limit, int64_t event_limit, bool graphs,
                                    bool early_starts) {
  engine::EngineOptions options;
  options.threads = threads;
  options.isa = isa;
  options.kv_kind = kv::parse_kind(kv_kind);
  options.kv_tokens = kv_tokens;
  options.max_sequences = max_sequences;
  options.prefill_chunk = prefill_chunk;
  if (token_bytes) options.token_bytes = strings_of(*token_bytes);
  options.queue_limit = queue_limit;
  options.event_limit = event_limit;
  options.graphs = graphs;
  options.early_starts = early_starts;
  const auto model = weights.loaded();
  py::gil_scoped_release release;
  return std::make_unique<Engine>(model, std::move(options));
}

int64_t submit_generate(Engine& self, const py::buffer& ids, const OptionalBuffer& embeddings,
                        int64_t max_new_tokens, int64_t min_new_tokens, const Ids& eos_ids,
                        const std::vector<py::bytes>& stop, double temperature, int64_t top_k,
                        double top_p, double min_p, double repetition_penalty,
                        double presence_penalty, double frequency_penalty,
                        const std::map<int32_t, float>& logit_bias, const py::int_& seed,
                        int64_t samples, const Ids& history, int64_t top_logprobs,
                        std::optional<double> deadline_s, bool speculate,
                        const std::optional<GrammarHandle>& grammar, const OptionalPages& pages) {
  engine::Generate task;
  task.max_new_tokens = max_new_tokens;
  task.min_new_tokens = min_new_tokens;
  task.eos_ids = eos_ids;
  task.stop = strings_of(stop);
  task.temperature = temperature;
  task.top_k = top_k;
  task.top_p = top_p;
  task.min_p = min_p;
  task.repetition_penalty = repetition_penalty;
  task.presence_penalty = presence_penalty;
  task.frequency_penalty = frequency_penalty;
  task.logit_bias.assign(logit_bias.begin(), logit_bias.end());
  task.seed = seed_of(seed);
  task.samples = samples;
  task.history = history;
  task.top_logprobs = top_logprobs;
  task.speculate = speculate;
  if (grammar) task.grammar = grammar->start();
  return submit(self, {prompt_of(ids, embeddings, pages), std::move(task), deadline_s});
}

int64_t submit_beams(Engine& self, const py::buffer& ids, const OptionalBuffer& embeddings,
                     int64_t beams, int64_t returned, int64_t max_new_tokens,
                     int64_t min_new_tokens, double length_penalty, const Ids& eos_ids,
                     double repetition_penalty, const Ids& history, int32_t pad_id,
                     std::optional<double> deadline_s, const std::optional<GrammarHandle>& grammar,
                     const OptionalPages& pages) {
  engine::Beams task;
  task.beams = beams;
  task.returned = returned;
  task.max_new_tokens = max_new_tokens;
  task.min_new_tokens = min_new_tokens;
  task.length_penalty = length_penalty;
  task.eos_ids = eos_ids;
  task.repetition_penalty = repetition_penalty;
  task.history = history;
  task.pad_id = pad_id;
  if (grammar) task.grammar = grammar->start();
  return submit(self, {prompt_of(ids, embeddings, pages), std::move(task), deadline_s});
}

int64_t submit_score(Engine& self, const py::buffer& ids, const OptionalBuffer& embeddings,
                     const std::vector<Ids>& candidates, std::optional<double> deadline_s,
                     const OptionalPages& pages) {
  return submit(self, {prompt_of(ids, embeddings, pages), engine::Score{candidates}, deadline_s});
}

int64_t submit_logits(Engine& self, const py::buffer& ids, const OptionalBuffer& embeddings,
                      int64_t first, std::optional<double> deadline_s, const OptionalPages& pages) {
  return submit(self, {prompt_of(ids, embeddings, pages), engine::Logits{first}, deadline_s});
}

int64_t submit_pages(Engine& self, const py::buffer& ids, const OptionalBuffer& embeddings,
                     std::optional<double> deadline_s) {
  return submit(self, {prompt_of(ids, embeddings, {}), engine::Pages{}, deadline_s});
}

// --- to Python ---------------------------------------------------------------------------------
struct ToTuple {
  py::tuple operator()(const engine::TokenEvent& event) const {
    return py::make_tuple("token", event.sample, event.id, event.logprob, event.top);
  }
  py::tuple operator()(const engine::EndEvent& event) const {
    // Words of the system may be in any encoding.
    const py::object message = py::reinterpret_steal<py::object>(PyUnicode_DecodeUTF8(
        event.message.data(), static_cast<Py_ssize_t>(event.message.size()), "replace"));
    return py::make_tuple("end", event.sample, engine::reason_name(event.reason), message);
  }
  py::tuple operator()(const engine::BeamEvent& event) const {
    return py::make_tuple("beam", event.rank, event.ids, event.score);
  }
  py::tuple operator()(const engine::ScoresEvent& event) const {
    return py::make_tuple("scores", event.candidate, event.logprobs);
  }
  py::tuple operator()(const engine::LogitsEvent& event) const {
    const auto width = static_cast<py::ssize_t>(event.values.size()) / event.rows;
    py::array_t<float> values({static_cast<py::ssize_t>(event.rows), width});
    std::copy(event.values.begin(), event.values.end(), values.mutable_data());
    return py::make_tuple("logits", values);
  }
  py::tuple operator()(const engine::PagesEvent& event) const { return pages_tuple(event); }
  py::tuple operator()(const engine::DoneEvent& event) const {
    const engine::Stats& stats = event.stats;
    py::dict out;
    out["queue"] = stats.queue_ms;
    out["prefill"] = stats.prefill_ms;
    out["decode"] = stats.decode_ms;
    out["first_token"] = stats.first_token_ms;
    out["total"] = stats.total_ms;
    out["prompt"] = stats.prompt;
    out["cached"] = stats.cached;
    out["brought"] = stats.brought;
    out["generated"] = stats.generated;
    out["accepted"] = stats.accepted;
    out["drafted"] = stats.drafted;
    return py::make_tuple("done", out);
  }
};

EventList next_events(Engine& self, int64_t request, double timeout_s) {
  std::vector<engine::Event> events;
  {
    py::gil_scoped_release release;
    events = self.next(request, timeout_s);
  }
  EventList out;
  for (const engine::Event& event : events) out.append(std::visit(ToTuple(), event));
  return out;
}

AnyDict metrics_dict(const Engine& self) {
  const engine::Metrics m = self.metrics();
  AnyDict out;
  const auto set = [&](const char* name, const auto& value) {
    out[py::str(name)] = py::cast(value);
  };
  const auto ended = [&](engine::Reason reason) { return m.ended[static_cast<size_t>(reason)]; };
  set("requests_submitted", m.submitted);
  set("requests_completed", ended(engine::Reason::kStop) + ended(engine::Reason::kLength));
  set("requests_deadline", ended(engine::Reason::kDeadline));
  set("requests_cancelled", ended(engine::Reason::kCancelled));
  set("requests_error", ended(engine::Reason::kError));
  set("running", m.running);
  set("waiting", m.waiting);
  set("steps", m.steps);
  set("steps_given_up", m.steps_given_up);
  set("prefill_tokens", m.prefill_tokens);
  set("decode_tokens", m.decode_tokens);
  set("prompt_tokens", m.prompt_tokens);
  set("cached_tokens", m.cached_tokens);
  set("brought_tokens", m.brought_tokens);
  set("generated_tokens", m.generated_tokens);
  set("drafted_tokens", m.drafted_tokens);
  set("accepted_tokens", m.accepted_tokens);
  set("busy_seconds", m.busy_seconds);
  set("last_step_ms", m.last_step_ms);
  set("prefill_share", m.prefill_share);
  set("kv_pages", m.kv.pages);
  set("kv_pages_free", m.kv.free);
  set("kv_pages_kept", m.kv.kept);
  set("kv_pages_referenced", m.kv.referenced);
  set("kv_pages_promised", m.kv.promised);
  set("kv_pages_evicted", m.kv.evicted);
  set("kv_bytes", m.kv.pages * m.kv_page_bytes);
  set("weight_bytes", m.weight_bytes);
  set("arena_bytes", m.arena_bytes);
  set("graphs", m.graphs.graphs);
  set("graph_seconds", m.graphs.seconds);
  set("graph_bytes", m.graphs.bytes);
  return out;
}

// `with engine.turn():`
class TurnHandle {
 public:
  explicit TurnHandle(py::object engine) : engine_(std::move(engine)) {}
  void enter() {
    Engine& engine = engine_.cast<Engine&>();
    py::gil_scoped_release release;
    engine.enter_turn();
  }
  void exit(const py::object& /*type*/, const py::object& /*value*/,
            const py::object& /*traceback*/) {
    engine_.cast<Engine&>().leave_turn();
  }

 private:
  py::object engine_;  // kept alive
};

// --- the class ---------------------------------------------------------------------------------
void bind_requests(py::class_<Engine>& engine) {
  engine
      .def("submit", &submit_generate, py::arg("ids"), py::arg("embeddings"), py::kw_only(),
           py::arg("max_new_tokens"), py::arg("min_new_tokens") = 0, py::arg("eos_ids") = Ids(),
           py::arg("stop") = std::vector<py::bytes>(), py::arg("temperature") = 0.0,
           py::arg("top_k") = 0, py::arg("top_p") = 1.0, py::arg("min_p") = 0.0,
           py::arg("repetition_penalty") = 1.0, py::arg("presence_penalty") = 0.0,
           py::arg("frequency_penalty") = 0.0, py::arg("logit_bias") = std::map<int32_t, float>(),
           py::arg("seed") = 0, py::arg("samples") = 1, py::arg("history") = Ids(),
           py::arg("top_logprobs") = 0, py::arg("deadline_s") = py::none(),
           py::arg("speculate") = false, py::arg("grammar") = py::none(),
           py::arg("pages") = py::none(),
           "Generate: samples of one prompt, greedy (temperature 0) or drawn. ids int32 [T], -1 "
           "for\n"
           "the next row of embeddings f32 [n, C]. grammar: what every sample is held to. pages: "
           "keys "
           "and\n"
           "values of the prompt's beginning, which is not computed then. Returns the request's "
           "id.\n"
           "Raises InvalidArgumentError, CapacityError, UnsupportedError (pages on a GPU).")
      .def("submit_beams", &submit_beams, py::arg("ids"), py::arg("embeddings"), py::kw_only(),
           py::arg("beams"), py::arg("returned"), py::arg("max_new_tokens"),
           py::arg("min_new_tokens") = 0, py::arg("length_penalty") = 1.0,
           py::arg("eos_ids") = Ids(), py::arg("repetition_penalty") = 1.0,
           py::arg("history") = Ids(), py::arg("pad_id") = 0, py::arg("deadline_s") = py::none(),
           py::arg("grammar") = py::none(), py::arg("pages") = py::none(),
           "Beam search, as tinygptv_fast.reference.beam does it.")
      .def("submit_score", &submit_score, py::arg("ids"), py::arg("embeddings"),
           py::arg("candidates"), py::kw_only(), py::arg("deadline_s") = py::none(),
           py::arg("pages") = py::none(),
           "Log-probabilities of each candidate's ids after the prompt.")
      .def("submit_logits", &submit_logits, py::arg("ids"), py::arg("embeddings"), py::kw_only(),
           py::arg("first") = 0, py::arg("deadline_s") = py::none(), py::arg("pages") = py::none(),
           "Logits of all positions from `first` on.")
      .def("submit_pages", &submit_pages, py::arg("ids"), py::arg("embeddings"), py::kw_only(),
           py::arg("deadline_s") = py::none(),
           "Keys and values of a prompt of whole pages, for PrefixPages: a ('pages', numbers, "
           "scales)\n"
           "event.")
      .def("next", &next_events, py::arg("request"), py::arg("timeout_s"),
           "The events since the last call, [] if none came in time:\n"
           "('token', sample, id, logprob, [(id, logprob), ...]), ('end', sample, reason, "
           "message),\n"
           "('beam', rank, ids, score), ('scores', candidate, logprobs), ('logits', f32 [n, V]),\n"
           "('pages', numbers, scales) and, last, ('done', times in ms and counts). Then the id is "
           "forgotten.")
      .def("cancel", &Engine::cancel, py::arg("request"), py::call_guard<py::gil_scoped_release>(),
           "End a request within the token it is at; nothing if it has ended.");
}

}  // namespace

void bind_engine(py::module_& module) {
  py::class_<TurnHandle>(module, "Turn", "A turn of Engine.turn(), entered with `with`.")
      .def("__enter__", &TurnHandle::enter)
      .def("__exit__", &TurnHandle::exit, py::arg("type"), py::arg("value"), py::arg("traceback"));
  py::class_<Engine> engine(
      module, "Engine",
      "Requests over one backbone, batched step by step by a native thread; internal, it may "
      "change\n"
      "without notice. See docs/engine.md. Every method may be called from any thread.");
  engine.def(
      py::init(&make_engine), py::arg("weights"), py::kw_only(), py::arg("threads") = 0,
      py::arg("isa") = "", py::arg("kv_kind"), py::arg("kv_tokens"), py::arg("max_sequences") = 8,
      py::arg("prefill_chunk") = 256, py::arg("token_bytes") = py::none(),
      py::arg("queue_limit") = 1024, py::arg("event_limit") = 256, py::arg("graphs") = true,
      py::arg("early_starts") = true,
      "threads: 0 for all physical cores; isa: '' for the widest; kv_kind: 'int8', 'f16',\n"
      "'bf16' or 'f32'; token_bytes: the text of each id, for stop strings; graphs: steps\n"
      "that only decode are captured graphs on a GPU; early_starts: there a kernel may start\n"
      "before the one before it is over.");
  bind_requests(engine);
  engine
      .def(
          "turn", [](py::object self) { return TurnHandle(std::move(self)); },
          "`with engine.turn():` holds the engine between two of its steps; first come, first "
          "served.")
      .def_property_readonly(
          "carries_pages", [](const Engine& self) { return self.limits().carries_pages; },
          "Whether it reads pages of keys and values and takes them from requests.")
      .def("metrics", &metrics_dict, "Counters since the start, and gauges.")
      .def(
          "counts",
          [](Engine& self) {
            kv::Counts counts;
            {
              py::gil_scoped_release release;
              counts = self.counts();
            }
            return counts_dict(counts);
          },
          "Pages of the KV cache by state, what is promised, sequences, pages evicted so far.")
      .def("check", &Engine::check, py::call_guard<py::gil_scoped_release>(),
           "Raises TinyGPTVError if the cache broke one of its rules.")
      .def("close", &Engine::close, py::call_guard<py::gil_scoped_release>(),
           "Cancel everything and end the engine's thread. What was said can still be read with\n"
           "next(); every other call raises ClosedError.");
}

}  // namespace tgv::bindings
