#include "kernels/cpu/sampling.h"

#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "base/errors.h"
#include "base/huge_buffer.h"
#include "base/match.h"
#include "bindings/bindings.h"
#include "bindings/tensors.h"

namespace tgv::bindings {

namespace {

// Scratch of a calling thread, kept between calls.
void* scratch_for(int64_t vocab) {
  thread_local std::unique_ptr<HugeBuffer> mine;
  const size_t bytes = cpu::sampling_scratch_bytes(vocab);
  if (!mine || mine->bytes() < bytes) {
    mine.reset();  // before the larger one, so that they never stand side by side
    mine = std::make_unique<HugeBuffer>(bytes);
  }
  return mine->data();
}

void throw_if(const std::string& why) {
  if (!why.empty()) throw InvalidArgument(why);
}

const float* logits_of(const py::buffer& logits, Sizes& sizes) {
  const TensorView view = view_of(logits, "logits");
  sizes.match("logits", view, {"V"}, {DType::kF32});
  return static_cast<const float*>(view.data);
}

std::tuple<int32_t, float, bool> sample(const py::buffer& logits, float temperature, int64_t top_k,
                                        float top_p, float min_p, float repetition_penalty,
                                        float presence_penalty, float frequency_penalty,
                                        const std::vector<std::pair<int32_t, float>>& logit_bias,
                                        const std::vector<int32_t>& banned,
                                        const std::vector<int32_t>& history, int64_t position,
                                        uint64_t seed, uint32_t sample, const std::string& isa) {
  Sizes sizes;
  cpu::SampleInput input;
  input.logits = logits_of(logits, sizes);
  input.vocab = sizes["V"];
  input.history = history;
  input.position = position;
  cpu::SamplingParams p;
  p.temperature = temperature;
  p.top_k = top_k;
  p.top_p = top_p;
  p.min_p = min_p;
  p.repetition_penalty = repetition_penalty;
  p.presence_penalty = presence_penalty;
  p.frequency_penalty = frequency_penalty;
  p.logit_bias = logit_bias;
  p.banned = banned;
  p.seed = seed;
  p.sample = sample;
  throw_if(cpu::sampling_why_not(p, input.vocab));
  if (position < 0) throw InvalidArgument(tgv::concat("position is ", position, ", expected >= 0"));
  const Isa chosen = choose_isa(isa);
  py::gil_scoped_release release;
  const cpu::SampleResult r = cpu::sample(input, p, scratch_for(input.vocab), chosen);
  return {r.id, r.logprob, r.finite};
}

bool top_logprobs(const py::buffer& ids, const py::buffer& logprobs, const py::buffer& logits,
                  const std::string& isa) {
  Sizes sizes;
  const float* in = logits_of(logits, sizes);
  throw_if(cpu::sampling_why_not({}, sizes["V"]));
  const TensorView i = view_of(ids, "ids"), l = view_of(logprobs, "logprobs");
  sizes.match("ids", i, {"n"}, {DType::kI32}, Access::kWrite);
  sizes.match("logprobs", l, {"n"}, {DType::kF32}, Access::kWrite);
  if (sizes["n"] < 1 || sizes["n"] > sizes["V"]) {
    throw InvalidArgument(tgv::concat("n is ", sizes["n"], ", expected 1..V=", sizes["V"]));
  }
  check_apart("logprobs", l, "logits", view_of(logits, "logits"));
  check_apart("ids", i, "logits", view_of(logits, "logits"));
  check_apart("ids", i, "logprobs", l);
  const Isa chosen = choose_isa(isa);
  py::gil_scoped_release release;
  return cpu::top_logprobs(static_cast<int32_t*>(i.data), static_cast<float*>(l.data), sizes["n"],
                           in, sizes["V"], scratch_for(sizes["V"]), chosen);
}

void log_softmax(const py::buffer& y, const py::buffer& x, const std::string& isa) {
  const TensorView in = view_of(x, "logits"), out = view_of(y, "out");
  Sizes sizes;
  sizes.match("logits", in, {"T", "V"}, {DType::kF32});
  sizes.match("out", out, {"T", "V"}, {DType::kF32}, Access::kWrite);
  if (out.data != in.data) check_apart("out", out, "logits", in);
  const int64_t tokens = sizes["T"], vocab = sizes["V"];
  throw_if(cpu::sampling_why_not({}, vocab));
  const Isa chosen = choose_isa(isa);
  py::gil_scoped_release release;
  for (int64_t t = 0; t < tokens; ++t) {
    cpu::log_softmax_row(static_cast<float*>(out.data) + t * vocab,
                         static_cast<const float*>(in.data) + t * vocab, vocab, chosen);
  }
}

}  // namespace

void bind_sampling(py::module_& module) {
  module.def(
      "sample", &sample, py::arg("logits"), py::arg("temperature"), py::arg("top_k"),
      py::arg("top_p"), py::arg("min_p"), py::arg("repetition_penalty"),
      py::arg("presence_penalty"), py::arg("frequency_penalty"), py::arg("logit_bias"),
      py::arg("banned"), py::arg("history"), py::arg("position"), py::arg("seed"),
      py::arg("sample"), py::arg("isa") = "",
      "One token of logits f32 [V]: (id, log-softmax of the logits as given, finite). Raises\n"
      "InvalidArgumentError, UnsupportedError.");
  module.def("top_logprobs", &top_logprobs, py::arg("ids"), py::arg("logprobs"), py::arg("logits"),
             py::arg("isa") = "",
             "The n largest of logits f32 [V], best first: ids i32 [n], log-softmax f32 [n]. False "
             "if\nlogits hold NaN or +inf. Raises InvalidArgumentError, UnsupportedError.");
  module.def("log_softmax", &log_softmax, py::arg("out"), py::arg("logits"), py::arg("isa") = "",
             "out f32 [T, V] = log-softmax of the rows of logits f32 [T, V]; out may be logits.\n"
             "Raises InvalidArgumentError, UnsupportedError.");
}

}  // namespace tgv::bindings
