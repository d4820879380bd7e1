#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include <memory>

#include "base/bandwidth.h"
#include "base/barrier_probe.h"
#include "base/cpu_features.h"
#include "base/int8_peak.h"
#include "base/isa.h"
#include "base/topology.h"
#include "bindings/bindings.h"

namespace tgv::bindings {

namespace {

using StringDict = py::typing::Dict<py::str, py::str>;
using BoolDict = py::typing::Dict<py::str, bool>;

StringDict build_info() {
  StringDict info;
  info["version"] = TINYGPTV_VERSION;
  info["compiler"] = __VERSION__;
  info["cuda"] = TINYGPTV_CUDA_OPTION;
  return info;
}

BoolDict cpu_features_dict() {
  const CpuFeatures& f = cpu_features();
  BoolDict out;
  out["avx2"] = f.avx2;
  out["avx_vnni"] = f.avx_vnni;
  out["avx512f"] = f.avx512f;
  out["avx512bw"] = f.avx512bw;
  out["avx512vl"] = f.avx512vl;
  out["avx512dq"] = f.avx512dq;
  out["avx512_vnni"] = f.avx512_vnni;
  out["avx512_bf16"] = f.avx512_bf16;
  out["amx_tile"] = f.amx_tile;
  out["amx_int8"] = f.amx_int8;
  out["amx_bf16"] = f.amx_bf16;
  return out;
}

std::vector<std::string> isa_names() {
  std::vector<std::string> out;
  for (const Isa isa : available_isas()) out.push_back(isa_name(isa));
  return out;
}

double read_bandwidth_of(int threads, int64_t bytes, int passes) {
  return read_bandwidth({threads, bytes > 0 ? static_cast<size_t>(bytes) : 0, passes});
}

double int8_peak_of(int threads, const std::string& isa, int passes) {
  return int8_peak({threads, choose_isa(isa), passes});
}

std::vector<double> barrier_times_of(int threads, int64_t spin_ns, int phases, int rounds,
                                     int64_t pause_ns) {
  return barrier_times({threads, spin_ns, phases, rounds, pause_ns});
}

}  // namespace

void bind_machine(py::module_& module) {
  module.def("build_info", &build_info,
             "How this core was built: version, compiler, cuda ('off', 'native' or 'all').");
  module.def("cpu_features", &cpu_features_dict,
             "Instruction sets this CPU has and the operating system lets it use.");
  module.def(
      "isas", &isa_names,
      "Instruction sets kernels can run with here, the one they prefer last: of 'portable',\n"
      "'avx2', 'avxvnni', 'avx512' and 'avx512vnni'.");
  module.def("best_isa", [] { return std::string(isa_name(best_isa())); }, "The last of isas().");
  module.def(
      "cpu_brand", [] { return cpu_features().brand; },
      "The CPU's own name; empty if it has none.");
  module.def("affinity_cpus", &affinity_cpus, "Logical CPUs this process may run on.");
  module.def(
      "cgroup_cpu_quota", [] { return cgroup_cpu_quota(); },
      "CPUs' worth of time this process's control group allows; 0.0 when unlimited.");
  module.def(
      "physical_cores", [] { return physical_cores(); },
      "Physical cores in the affinity mask, capped by the control group: what threads=None means.");
  module.def(
      "read_bandwidth", &read_bandwidth_of, py::arg("threads") = 0,
      py::arg("bytes") = int64_t{512} << 20, py::arg("passes") = 7,
      py::call_guard<py::gil_scoped_release>(),
      "Median bytes per second that `threads` threads (0: physical_cores()) read together from\n"
      "`bytes` of huge-page memory. Raises InvalidArgumentError.");
  py::class_<BandwidthProbe>(
      module, "BandwidthProbe",
      "read_bandwidth with a buffer that is kept, to be asked around whatever is measured.")
      .def(py::init([](int threads, int64_t bytes) {
             return std::make_unique<BandwidthProbe>(
                 BandwidthOptions{threads, bytes > 0 ? static_cast<size_t>(bytes) : 0, 1});
           }),
           py::arg("threads") = 0, py::arg("bytes") = int64_t{1} << 30)
      .def("measure", &BandwidthProbe::measure, py::arg("passes") = 1,
           py::call_guard<py::gil_scoped_release>(), "Median bytes per second over `passes`.");
  module.def("int8_peak", &int8_peak_of, py::arg("threads") = 0, py::arg("isa") = "",
             py::arg("passes") = 9, py::call_guard<py::gil_scoped_release>(),
             "Operations per second of int8 multiply-accumulate in registers (two per byte), the\n"
             "fastest of `passes`. isa: '' (the widest) or a name of isas(). Raises\n"
             "InvalidArgumentError, UnsupportedError for 'portable'.");
  module.def("barrier_times", &barrier_times_of, py::arg("threads"), py::arg("spin_ns") = -1,
             py::arg("phases") = 96, py::arg("rounds") = 1000, py::arg("pause_ns") = 0,
             py::call_guard<py::gil_scoped_release>(),
             "Nanoseconds per phase of each of `rounds` runs of `phases` empty phases on the "
             "thread pool,\n"
             "with an idle time of pause_ns before each. spin_ns: how long waiting threads spin "
             "before they\n"
             "park, -1 for the pool's own choice. Raises InvalidArgumentError.");
}

}  // namespace tgv::bindings
