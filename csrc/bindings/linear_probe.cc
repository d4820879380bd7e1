#include "kernels/cpu/linear_probe.h"

#include <pybind11/stl.h>

#include <string>

#include "base/errors.h"
#include "bindings/bindings.h"
#include "bindings/weight_sources.h"

namespace tgv::bindings {

namespace {

std::vector<py::dict> linear_probe(const std::vector<int64_t>& tokens, const std::string& kind,
                                   int64_t group_size, bool symmetric, int64_t width, int layers,
                                   int rounds, int window, int threads, const std::string& isa) {
  cpu::LinearProbeOptions options;
  options.kind = weight_kind_of("kind", kind);
  options.group_size = group_size;
  options.symmetric = symmetric;
  options.width = width;
  options.layers = layers;
  options.tokens = tokens;
  options.rounds = rounds;
  options.window = window;
  options.threads = threads;
  options.isa = choose_isa(isa);
  std::vector<cpu::LinearProbeRound> found;
  {
    py::gil_scoped_release release;
    found = cpu::linear_probe(options);
  }
  std::vector<py::dict> out;
  for (const cpu::LinearProbeRound& round : found) {
    py::dict one;
    one["tokens"] = round.tokens;
    one["seconds"] = round.seconds;
    one["read_before"] = round.read_before;
    one["read_after"] = round.read_after;
    one["bytes"] = round.bytes;
    one["operations"] = round.operations;
    out.push_back(one);
  }
  return out;
}

}  // namespace

void bind_linear_probe(py::module_& module) {
  module.def(
      "linear_probe", &linear_probe, py::arg("tokens"), py::arg("kind") = "int4",
      py::arg("group_size") = 32, py::arg("symmetric") = true, py::arg("width") = 2560,
      py::arg("layers") = 32, py::arg("rounds") = 9, py::arg("window") = 4, py::arg("threads") = 2,
      py::arg("isa") = "",
      "Time the matrices of a decoder step: [Wqkv | W1] and [Wo | W2] of `layers` layers, random,\n"
      "end to end in memory, in the phases of one pool, `window` layers at a time. One dict per\n"
      "round and number of tokens: seconds of a window, bytes per second of plain reads directly\n"
      "before and after it (read_before, read_after), its bytes of weights and operations. Raises\n"
      "InvalidArgumentError, UnsupportedError.");
}

}  // namespace tgv::bindings
