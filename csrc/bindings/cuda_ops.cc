#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/errors.h"
#include "bindings/bindings.h"
#include "bindings/cuda_kinds.h"
#include "kernels/cpu/sampling.h"
#include "model/cuda_call.h"
#include "model/cuda_emulation.h"

namespace tgv::bindings {

namespace {

using Address = uintptr_t;  // of device memory; 0 is nothing

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

int narrow(const char* name, int64_t value) {
  check_range(name, value, 0, INT32_MAX);
  return static_cast<int>(value);
}

cuda::KvKind pages_of(const std::string& kind) {
  if (kind == "f32") return cuda::KvKind::kF32;
  if (kind == "f16") return cuda::KvKind::kF16;
  if (kind == "bf16") return cuda::KvKind::kBF16;
  if (kind == "int8") return cuda::KvKind::kI8;
  if (kind == "e4m3") return cuda::KvKind::kE4M3;
  throw InvalidArgument(tgv::concat("kind is '", kind.substr(0, 40),
                                    "', expected 'f32', 'f16', 'bf16', 'int8' or 'e4m3'"));
}

// y[M, N] = f(x[M, K] W^T + bias); what W is, is the kernel's.
struct Product {
  int64_t m, n, k;
  Address y, x, bias;
  bool y_is_element, gelu;
  Address workspace;
  int64_t workspace_bytes;

  template <class Params>
  Params as() const {
    Params p;
    p.m = m;
    p.n = n;
    p.k = k;
    p.y = at<void>(y);
    p.y_is_element = y_is_element;
    p.x = at<const void>(x);
    p.bias = at<const void>(bias);
    p.gelu = gelu;
    p.workspace = at<void>(workspace);
    p.workspace_bytes = workspace_bytes;
    return p;
  }
};

// K and V, and where a sequence's pages are.
struct Pages {
  std::string kind;
  Address k, v, k_scales, v_scales, block_table;
  int64_t max_pages;

  template <class Params>
  void into(Params& p) const {
    p.kind = pages_of(kind);
    p.k_pages = at<void>(k);
    p.v_pages = at<void>(v);
    p.k_scales = at<Half>(k_scales);
    p.v_scales = at<Half>(v_scales);
    p.block_table = at<const int32_t>(block_table);
    p.max_pages = narrow("max_pages", max_pages);
  }
};

using Bias = std::vector<std::pair<int32_t, float>>;

// Settings as they lie in device memory, for lists that begin at 0 each.
py::bytes sampling_settings(int64_t vocab, float temperature, int64_t top_k, float top_p,
                            float min_p, float repetition_penalty, float presence_penalty,
                            float frequency_penalty, const Bias& logit_bias,
                            const std::vector<int32_t>& banned, int64_t history, uint64_t seed,
                            uint32_t sample) {
  cpu::SamplingParams checked;
  checked.temperature = temperature;
  checked.top_k = top_k;
  checked.top_p = top_p;
  checked.min_p = min_p;
  checked.repetition_penalty = repetition_penalty;
  checked.presence_penalty = presence_penalty;
  checked.frequency_penalty = frequency_penalty;
  checked.logit_bias = logit_bias;
  checked.banned = banned;
  const std::string why_not = cpu::sampling_why_not(checked, vocab);
  if (!why_not.empty()) throw InvalidArgument(why_not);
  cuda::SamplingSettings s;
  s.temperature = temperature;
  s.top_p = top_p;
  s.min_p = min_p;
  s.repetition_penalty = repetition_penalty;
  s.presence_penalty = presence_penalty;
  s.frequency_penalty = frequency_penalty;
  s.top_k = static_cast<int32_t>(std::min(top_k, vocab));
  s.sample = sample;
  s.seed = seed;
  s.history_end = narrow("the length of history", history);
  s.bias_end = narrow("the length of logit_bias", static_cast<int64_t>(logit_bias.size()));
  s.banned_end = narrow("the length of banned", static_cast<int64_t>(banned.size()));
  return py::bytes(reinterpret_cast<const char*>(&s), sizeof s);
}

class CudaOps {
 public:
  CudaOps(const std::string& emulation, int64_t device, uint64_t stream)
      : table_(model::cuda_table_of(emulation).kernels) {
    call_.device = narrow("device", device);
    call_.stream = stream;
  }

  // Bytes of the scratch that a product needs, and how many of them must be 0.
  std::pair<int64_t, int64_t> workspace(const std::string& kind, int64_t m, int64_t n, int64_t k,
                                        int64_t group) const {
    model::DeviceLimits limits;
    model::call(table_.limits, &limits, &call_);
    const auto sized = [&](auto p) {
      p.m = m;
      p.n = n;
      p.k = k;
      return p;
    };
    const auto sizes = [](const cuda::GemmWork& work) {
      return std::pair(cuda::gemm_workspace_bytes(work), cuda::gemm_counter_bytes(work));
    };
    const int blocks = limits.multiprocessors;
    if (kind == "int4") {
      cuda::Int4GemmParams p = sized(cuda::Int4GemmParams{});
      p.group = narrow("group", group);
      if (model::takes_gemv(p, limits.shared_bytes_per_block)) return {0, 0};
      return sizes(cuda::int4_gemm_work(p, blocks));
    }
    if (kind == "int8") return sizes(cuda::int8_gemm_work(sized(cuda::Int8GemmParams{}), blocks));
    if (kind == "f32") return sizes(cuda::float_gemm_work(sized(cuda::FloatGemmParams{}), blocks));
    return sizes(cuda::half_gemm_work(sized(cuda::HalfGemmParams{}), blocks));
  }

  void embedding(int64_t tokens, int64_t vocab, int64_t width, const std::string& kind, Address y,
                 Address rows, Address scales, Address ids) const {
    cuda::EmbeddingParams p;
    p.tokens = tokens;
    p.vocab = vocab;
    p.width = width;
    p.kind = embedding_kind("kind", kind);
    p.y = at<float>(y);
    p.rows = at<const void>(rows);
    p.scales = at<const float>(scales);
    p.ids = at<const int32_t>(ids);
    run(table_.embedding, p);
  }

  void norm(int64_t rows, int64_t width, bool is_rms, float eps, Address y, Address x,
            Address weight, Address bias) const {
    cuda::NormParams p;
    p.rows = rows;
    p.width = width;
    p.kind = is_rms ? cuda::NormKind::kRms : cuda::NormKind::kLayer;
    p.eps = eps;
    p.y_float = at<float>(y);
    p.residual = at<const float>(x);
    p.weight = at<const float>(weight);
    p.bias = at<const float>(bias);
    run(table_.norm, p);
  }

  void add_branches(int64_t rows, int64_t width, float eps, Address sum, Address x,
                    Address attention, Address mlp, Address rms_weight) const {
    cuda::NormParams p;
    p.rows = rows;
    p.width = width;
    p.rms_eps = eps;
    p.sum = at<float>(sum);
    p.residual = at<const float>(x);
    p.attention = at<const float>(attention);
    p.mlp = at<const float>(mlp);
    p.rms_weight = at<const float>(rms_weight);
    run(table_.norm, p);
  }

  void int4_matmul(const Product& product, int64_t group, Address weights, Address scales,
                   Address zeros) const {
    auto p = product.as<cuda::Int4GemmParams>();
    p.group = narrow("group", group);
    p.weights = at<const uint32_t>(weights);
    p.scales = at<const uint32_t>(scales);
    p.zeros = at<const uint32_t>(zeros);
    run(table_.int4_product, p);
  }

  void int8_matmul(const Product& product, Address weights, Address row_scales) const {
    auto p = product.as<cuda::Int8GemmParams>();
    p.weights = at<const uint32_t>(weights);
    p.row_scales = at<const float>(row_scales);
    run(table_.int8_product, p);
  }

  void half_matmul(const Product& product, bool bfloat16, Address weights) const {
    auto p = product.as<cuda::HalfGemmParams>();
    p.bfloat16 = bfloat16;
    p.weights = at<const uint32_t>(weights);
    run(table_.half_product, p);
  }

  void float_matmul(const Product& product, Address weights) const {
    auto p = product.as<cuda::FloatGemmParams>();
    p.weights = at<const float>(weights);
    run(table_.float_product, p);
  }

  void qkv_append(int64_t tokens, int64_t heads, int64_t head_dim, int64_t rotary_dims,
                  int64_t rotary_positions, int64_t sequences, int64_t page_count, float eps,
                  const std::string& q_kind, Address q, const Pages& pages, Address qkv,
                  Address positions, Address sequence_of, Address q_weight, Address q_bias,
                  Address k_weight, Address k_bias, Address cos, Address sin) const {
    cuda::QkvAppendParams p;
    pages.into(p);
    p.tokens = narrow("tokens", tokens);
    p.heads = narrow("heads", heads);
    p.head_dim = narrow("head_dim", head_dim);
    p.rotary_dims = narrow("rotary_dims", rotary_dims);
    p.rotary_positions = narrow("rotary_positions", rotary_positions);
    p.sequences = narrow("sequences", sequences);
    p.pages = narrow("pages", page_count);
    p.eps = eps;
    p.q_kind = pages_of(q_kind);
    p.q = at<void>(q);
    p.qkv = at<const float>(qkv);
    p.positions = at<const int32_t>(positions);
    p.sequence_of = at<const int32_t>(sequence_of);
    p.q_weight = at<const float>(q_weight);
    p.q_bias = at<const float>(q_bias);
    p.k_weight = at<const float>(k_weight);
    p.k_bias = at<const float>(k_bias);
    p.cos = at<const float>(cos);
    p.sin = at<const float>(sin);
    run(table_.qkv_append, p);
  }

  static int64_t decode_scratch(int64_t sequences, int64_t heads, int64_t head_dim,
                                int64_t max_pages) {
    return cuda::paged_attention_partial_elems(decode(sequences, heads, head_dim, max_pages));
  }

  void decode_attention(int64_t sequences, int64_t heads, int64_t head_dim, float scale,
                        Address out, bool out_is_half, Address q, const Pages& pages,
                        Address lengths, Address scratch) const {
    cuda::PagedAttentionParams p = decode(sequences, heads, head_dim, pages.max_pages);
    pages.into(p);
    p.scale = scale;
    p.out = at<void>(out);
    p.out_is_half = out_is_half;
    p.partial = at<float>(scratch);
    p.q = at<const void>(q);
    p.lengths = at<const int32_t>(lengths);
    run(table_.paged_attention, p);
  }

  void prefill_attention(int64_t sequences, int64_t heads, int64_t head_dim, int64_t max_tokens,
                         float scale, Address out, bool out_is_half, Address q, const Pages& pages,
                         Address first_tokens, Address tokens, Address contexts) const {
    cuda::PrefillAttentionParams p;
    pages.into(p);
    p.sequences = narrow("sequences", sequences);
    p.heads = narrow("heads", heads);
    p.head_dim = narrow("head_dim", head_dim);
    p.max_tokens = narrow("max_tokens", max_tokens);
    p.scale = scale;
    p.out = at<void>(out);
    p.out_is_half = out_is_half;
    p.q = at<const void>(q);
    p.first_tokens = at<const int32_t>(first_tokens);
    p.tokens = at<const int32_t>(tokens);
    p.contexts = at<const int32_t>(contexts);
    run(table_.prefill_attention, p);
  }

  void sample(int64_t vocab, int64_t top, Address logits, Address settings, Address positions,
              Address history, Address bias_ids, Address bias_values, Address banned_ids,
              Address row, Address counts, Address ids, Address logprobs, Address top_ids,
              Address top_logprobs) const {
    cuda::SamplingParams p;
    p.sequences = 1;
    p.vocab = narrow("vocab", vocab);
    p.top = narrow("top", top);
    p.logits = at<const float>(logits);
    p.logits_stride = vocab;
    p.settings = at<const cuda::SamplingSettings>(settings);
    p.positions = at<const int64_t>(positions);
    p.history = at<const int32_t>(history);
    p.bias_ids = at<const int32_t>(bias_ids);
    p.bias_values = at<const float>(bias_values);
    p.banned_ids = at<const int32_t>(banned_ids);
    p.row = at<float>(row);
    p.counts = at<int32_t>(counts);
    p.ids = at<int32_t>(ids);
    p.logprobs = at<float>(logprobs);
    p.top_ids = at<int32_t>(top_ids);
    p.top_logprobs = at<float>(top_logprobs);
    run(table_.sampling, p);
  }

 private:
  static cuda::PagedAttentionParams decode(int64_t sequences, int64_t heads, int64_t head_dim,
                                           int64_t max_pages) {
    cuda::PagedAttentionParams p;
    p.sequences = narrow("sequences", sequences);
    p.heads = narrow("heads", heads);
    p.head_dim = narrow("head_dim", head_dim);
    p.max_pages = narrow("max_pages", max_pages);
    return p;
  }

  template <class Params>
  void run(model::CudaStatus (*function)(const Params*, const model::CudaCall*, model::CudaError*),
           const Params& p) const {
    py::gil_scoped_release release;
    model::call(function, &p, &call_);
  }

  const model::CudaKernelTable& table_;
  model::CudaCall call_;
};

}  // namespace

void bind_cuda_ops(py::module_& module) {
  py::class_<Product>(module, "CudaProduct",
                      "y [M, N] = act(x [M, K] W^T + bias) by addresses; internal.")
      .def(py::init<int64_t, int64_t, int64_t, Address, Address, Address, bool, bool, Address,
                    int64_t>(),
           py::kw_only(), py::arg("m"), py::arg("n"), py::arg("k"), py::arg("y"), py::arg("x"),
           py::arg("bias"), py::arg("y_is_element"), py::arg("gelu"), py::arg("workspace"),
           py::arg("workspace_bytes"), "workspace: see CudaOps.workspace.");
  py::class_<Pages>(module, "CudaPages",
                    "K and V [NP, H, 16, D] and a block table [S, max_pages] by addresses; "
                    "internal.")
      .def(py::init<std::string, Address, Address, Address, Address, Address, int64_t>(),
           py::kw_only(), py::arg("kind"), py::arg("k"), py::arg("v"), py::arg("k_scales"),
           py::arg("v_scales"), py::arg("block_table"), py::arg("max_pages"));
  py::class_<CudaOps>(
      module, "CudaOps",
      "Single kernels of a GPU on the caller's stream, by addresses of device memory, which are\n"
      "trusted; internal: ops.gpu is the way in. Calls return when the work is on the stream.\n"
      "Raise InvalidArgumentError with the kernel's reason for a size that it cannot take.")
      .def(py::init<const std::string&, int64_t, uint64_t>(), py::kw_only(),
           py::arg("emulation") = "", py::arg("device") = 0, py::arg("stream") = 0,
           "stream: a cudaStream_t of that device. emulation: the path of the CUDA library "
           "compiled\nfor the host, for tests, where addresses are the host's. Raises "
           "UnsupportedError where no GPU can be used.")
      .def("workspace", &CudaOps::workspace, py::kw_only(), py::arg("kind"), py::arg("m"),
           py::arg("n"), py::arg("k"), py::arg("group"),
           "Bytes of a product's workspace, and how many of them, the first, must be 0 before the\n"
           "launch. kind: 'int4', 'int8', 'f16', 'bf16' or 'f32'.")
      .def("embedding", &CudaOps::embedding, py::kw_only(), py::arg("tokens"), py::arg("vocab"),
           py::arg("width"), py::arg("kind"), py::arg("y"), py::arg("rows"), py::arg("scales"),
           py::arg("ids"))
      .def("norm", &CudaOps::norm, py::kw_only(), py::arg("rows"), py::arg("width"),
           py::arg("is_rms"), py::arg("eps"), py::arg("y"), py::arg("x"), py::arg("weight"),
           py::arg("bias"))
      .def("add_branches", &CudaOps::add_branches, py::kw_only(), py::arg("rows"), py::arg("width"),
           py::arg("eps"), py::arg("sum"), py::arg("x"), py::arg("attention"), py::arg("mlp"),
           py::arg("rms_weight"))
      .def("int4_matmul", &CudaOps::int4_matmul, py::arg("product"), py::kw_only(),
           py::arg("group"), py::arg("weights"), py::arg("scales"), py::arg("zeros"))
      .def("int8_matmul", &CudaOps::int8_matmul, py::arg("product"), py::kw_only(),
           py::arg("weights"), py::arg("row_scales"))
      .def("half_matmul", &CudaOps::half_matmul, py::arg("product"), py::kw_only(),
           py::arg("bfloat16"), py::arg("weights"))
      .def("float_matmul", &CudaOps::float_matmul, py::arg("product"), py::kw_only(),
           py::arg("weights"))
      .def("qkv_append", &CudaOps::qkv_append, py::kw_only(), py::arg("tokens"), py::arg("heads"),
           py::arg("head_dim"), py::arg("rotary_dims"), py::arg("rotary_positions"),
           py::arg("sequences"), py::arg("page_count"), py::arg("eps"), py::arg("q_kind"),
           py::arg("q"), py::arg("pages"), py::arg("qkv"), py::arg("positions"),
           py::arg("sequence_of"), py::arg("q_weight"), py::arg("q_bias"), py::arg("k_weight"),
           py::arg("k_bias"), py::arg("cos"), py::arg("sin"))
      .def_static("decode_scratch", &CudaOps::decode_scratch, py::arg("sequences"),
                  py::arg("heads"), py::arg("head_dim"), py::arg("max_pages"),
                  "float32 numbers of decode_attention's scratch.")
      .def("decode_attention", &CudaOps::decode_attention, py::kw_only(), py::arg("sequences"),
           py::arg("heads"), py::arg("head_dim"), py::arg("scale"), py::arg("out"),
           py::arg("out_is_half"), py::arg("q"), py::arg("pages"), py::arg("lengths"),
           py::arg("scratch"))
      .def("prefill_attention", &CudaOps::prefill_attention, py::kw_only(), py::arg("sequences"),
           py::arg("heads"), py::arg("head_dim"), py::arg("max_tokens"), py::arg("scale"),
           py::arg("out"), py::arg("out_is_half"), py::arg("q"), py::arg("pages"),
           py::arg("first_tokens"), py::arg("tokens"), py::arg("contexts"))
      .def_static("sampling_settings", &sampling_settings, py::kw_only(), py::arg("vocab"),
                  py::arg("temperature"), py::arg("top_k"), py::arg("top_p"), py::arg("min_p"),
                  py::arg("repetition_penalty"), py::arg("presence_penalty"),
                  py::arg("frequency_penalty"), py::arg("logit_bias"), py::arg("banned"),
                  py::arg("history"), py::arg("seed"), py::arg("sample"),
                  "What sample reads of one row, checked; history: how long it is.")
      .def("sample", &CudaOps::sample, py::kw_only(), py::arg("vocab"), py::arg("top"),
           py::arg("logits"), py::arg("settings"), py::arg("positions"), py::arg("history"),
           py::arg("bias_ids"), py::arg("bias_values"), py::arg("banned_ids"), py::arg("row"),
           py::arg("counts"), py::arg("ids"), py::arg("logprobs"), py::arg("top_ids"),
           py::arg("top_logprobs"));
}

}  // namespace tgv::bindings
