#include "model/cuda/decoder.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "model/cuda/device_limits.h"
#include "model/cuda/int4_choice.h"
#include "model/rotary.h"

namespace tgv::model {

namespace {

constexpr int64_t kSinglesAtOnce = 64;  // of attention: bounds its scratch

std::string layer_name(int64_t layer, const char* tensor) {
  return concat("text.layers.", layer, ".", tensor);
}

cuda::KvKind query_kind(cuda::KvKind kind) {
  return cuda::kv_has_scales(kind) ? cuda::KvKind::kF16 : kind;
}

CudaDecoderOptions with_device(CudaDecoderOptions options) {
  const DeviceLimits device = device_limits();
  options.early_starts = options.early_starts && device.can_start_early;
  if (options.multiprocessors == 0) options.multiprocessors = device.multiprocessors;
  if (options.shared_bytes_per_block == 0) {
    options.shared_bytes_per_block = device.shared_bytes_per_block;
  }
  check_range("multiprocessors", options.multiprocessors, 1, 65536);
  return options;
}

StepLimits limits_of(const Architecture& a, const CudaDecoderOptions& options,
                     const CudaPageShape& pages, size_t front_bytes) {
  StepLimits limits;
  limits.front_bytes = static_cast<int64_t>(front_bytes);
  limits.max_tokens = options.max_tokens;
  limits.max_logit_rows = options.max_logit_rows;
  limits.max_sequences = std::min(options.max_sequences, options.max_tokens);
  limits.max_positions = a.max_positions;
  limits.vocab = a.vocab;
  limits.width = a.width;
  limits.pages = pages.pages;
  limits.tokens_are_sequences = pages.kind == cuda::KvKind::kF32;
  return limits;
}

CudaPageShape checked(const CudaPageShape& shape, const Architecture& a) {
  if (shape.layers != a.layers || shape.heads != a.heads || shape.head_dim != a.head_dim) {
    throw InvalidArgument(concat("the cache has L=", shape.layers, ",H=", shape.heads,
                                 ",D=", shape.head_dim, ", the model L=", a.layers, ",H=", a.heads,
                                 ",D=", a.head_dim));
  }
  return shape;
}

void refuse(const char* kernel, const std::string& why_not) {
  if (!why_not.empty()) throw InvalidArgument(concat(kernel, ": ", why_not));
}

template <class Params>
cuda::GemmWork work_of(const Params& p, int blocks);
template <>
cuda::GemmWork work_of(const cuda::Int4GemmParams& p, int blocks) {
  return cuda::int4_gemm_work(p, blocks);
}
template <>
cuda::GemmWork work_of(const cuda::Int8GemmParams& p, int blocks) {
  return cuda::int8_gemm_work(p, blocks);
}
template <>
cuda::GemmWork work_of(const cuda::HalfGemmParams& p, int blocks) {
  return cuda::half_gemm_work(p, blocks);
}
template <>
cuda::GemmWork work_of(const cuda::FloatGemmParams& p, int blocks) {
  return cuda::float_gemm_work(p, blocks);
}

// Of a product of m rows with an [n, k] matrix. Tiles, and with them counters and sums, grow with
// m.
cuda::GemmWork largest_work(const CudaForms::Matrix& form, int64_t n, int64_t k, int64_t m,
                            int blocks) {
  const auto sized = [&](auto p) {
    p.m = m;
    p.n = n;
    p.k = k;
    return p;
  };
  switch (form.form) {
    case CudaForm::kInt4: {
      cuda::Int4GemmParams p = sized(cuda::Int4GemmParams{});
      p.group = form.group;
      return work_of(p, blocks);
    }
    case CudaForm::kInt8:
      return work_of(sized(cuda::Int8GemmParams{}), blocks);
    case CudaForm::kF16:
    case CudaForm::kBF16:
      return work_of(sized(cuda::HalfGemmParams{}), blocks);
    case CudaForm::kF32:
      break;
  }
  return work_of(sized(cuda::FloatGemmParams{}), blocks);
}

}  // namespace

// --- construction -------------------------------------------------------------------------------
struct CudaDecoder::Buffers {
  uint8_t* step;
  StepArrays given;  // of `step`
  float *x, *qkv, *attention, *mlp, *logits, *partial, *cosines, *sines;
  void *h, *q, *mixed, *gelu, *last;
  uint8_t* workspace;  // counters of any product end where its sums begin, see give_workspace
  int64_t counter_bytes, workspace_bytes;
  size_t bytes;
};

CudaDecoder::CudaDecoder(std::shared_ptr<const CudaWeights> weights, const CudaStorage& storage,
                         const CudaDecoderOptions& options, size_t front_bytes)
    : weights_(std::move(weights)),
      architecture_(weights_->architecture()),
      options_(with_device(options)),
      page_shape_(checked(storage.shape(), architecture_)),
      body_form_(weights_->forms().body.form),
      head_form_(weights_->forms().head.form),
      inputs_(limits_of(architecture_, options_, page_shape_, front_bytes)),
      staging_(inputs_.bytes(), "the inputs of a step"),
      arena_(carve(sizes(), nullptr).bytes, "a decoder"),
      buffers_(std::make_unique<const Buffers>(carve(sizes(), arena_.data()))) {
  weights_->check_complete();
  stream_.allow_early_starts(options_.early_starts);
  read_layers(storage);
  upload_rotary();
  zero(buffers_->workspace, static_cast<size_t>(buffers_->counter_bytes), stream_);
  stream_.wait();
  check_kernels();
}

CudaDecoder::~CudaDecoder() {
#if defined(__CUDACC__)
  (void)cudaStreamSynchronize(stream_.get());  // nothing may still use what goes now
#endif
}

CudaDecoder::Sizes CudaDecoder::sizes() const {
  return {architecture_, weights_->forms(), options_, page_shape_.kind, inputs_};
}

CudaDecoder::Memory CudaDecoder::memory_for(const Architecture& architecture,
                                            const CudaForms& forms, const CudaPageShape& pages,
                                            const CudaDecoderOptions& options, size_t front_bytes) {
  architecture.check();
  const CudaDecoderOptions chosen = with_device(options);
  const StepInputs inputs(
      limits_of(architecture, chosen, checked(pages, architecture), front_bytes));
  return {carve({architecture, forms, chosen, pages.kind, inputs}, nullptr).bytes, inputs.bytes()};
}

CudaDecoder::Buffers CudaDecoder::carve(const Sizes& sizes, uint8_t* base) {
  const Architecture& a = sizes.architecture;
  const CudaDecoderOptions& options = sizes.options;
  const size_t T = static_cast<size_t>(options.max_tokens);
  const size_t rows = static_cast<size_t>(options.max_logit_rows);
  const size_t C = static_cast<size_t>(a.width), F = static_cast<size_t>(a.mlp_width);
  const size_t element = cuda_element_bytes(sizes.forms.body.form);
  Buffers b{};
  int64_t sum_bytes = 0;
  const auto add_work = [&](const CudaForms::Matrix& form, int64_t n, int64_t k, int64_t m) {
    const cuda::GemmWork work = largest_work(form, n, k, m, options.multiprocessors);
    const int64_t counters = cuda::gemm_counter_bytes(work);
    b.counter_bytes = std::max(b.counter_bytes, counters);
    sum_bytes = std::max(sum_bytes, cuda::gemm_workspace_bytes(work) - counters);
  };
  add_work(sizes.forms.body, 3 * a.width, a.width, options.max_tokens);  // qkv
  add_work(sizes.forms.body, a.mlp_width, a.width, options.max_tokens);  // fc1
  add_work(sizes.forms.body, a.width, a.width, options.max_tokens);      // out
  add_work(sizes.forms.body, a.width, a.mlp_width, options.max_tokens);  // fc2
  add_work(sizes.forms.head, a.vocab, a.width, options.max_logit_rows);
  b.workspace_bytes = b.counter_bytes + sum_bytes;

  cuda::PagedAttentionParams singles;
  singles.sequences =
      static_cast<int>(std::min(kSinglesAtOnce, sizes.inputs.limits().max_sequences));
  singles.heads = static_cast<int>(a.heads);
  singles.head_dim = static_cast<int>(a.head_dim);
  singles.max_pages = static_cast<int>(sizes.inputs.limits().max_pages());

  DeviceCarver carver(base);
  carver.take(b.step, sizes.inputs.bytes());
  carver.take(b.x, 4 * T * C);
  carver.take(b.h, element * T * C);
  carver.take(b.qkv, 12 * T * C);
  carver.take(b.q, static_cast<size_t>(cuda::kv_query_bytes(sizes.pages)) * T * C);
  carver.take(b.mixed, element * T * C);
  carver.take(b.gelu, element * T * F);
  carver.take(b.attention, 4 * T * C);
  carver.take(b.mlp, 4 * T * C);
  carver.take(b.last, cuda_element_bytes(sizes.forms.head.form) * rows * C);
  carver.take(b.logits, 4 * rows * static_cast<size_t>(a.vocab));
  carver.take(b.partial, static_cast<size_t>(4 * cuda::paged_attention_partial_elems(singles)));
  const size_t angles = static_cast<size_t>(4 * a.max_positions * (a.rotary_dims / 2));
  carver.take(b.cosines, angles);
  carver.take(b.sines, angles);
  carver.take(b.workspace, static_cast<size_t>(b.workspace_bytes));
  b.given = sizes.inputs.arrays(b.step);
  b.bytes = carver.used();
  return b;
}

void CudaDecoder::read_layers(const CudaStorage& storage) {
  const Architecture& a = architecture_;
  const CudaWeights& w = *weights_;
  for (int64_t l = 0; l < a.layers; ++l) {
    const auto vector = [&](const char* name, bool there) {
      return there ? w.vector(layer_name(l, name)) : nullptr;
    };
    Layer layer{};
    layer.qkv = w.matrix(layer_name(l, "attn.qkv"));
    layer.fc1 = w.matrix(layer_name(l, "mlp.fc1"));
    layer.out = w.matrix(layer_name(l, "attn.out"));
    layer.fc2 = w.matrix(layer_name(l, "mlp.fc2"));
    layer.norm_weight = vector("norm.weight", true);
    layer.norm_bias = vector("norm.bias", true);
    layer.q_weight = vector("attn.q_norm.weight", a.qk_norm);
    layer.q_bias = vector("attn.q_norm.bias", a.qk_norm);
    layer.k_weight = vector("attn.k_norm.weight", a.qk_norm);
    layer.k_bias = vector("attn.k_norm.bias", a.qk_norm);
    layer.post_weight = vector("attn.post_norm.weight", a.post_attention_norm);
    layer.pages = storage.layer(l);
    layers_.push_back(layer);
  }
  head_ = w.matrix("text.head");
  final_weight_ = w.vector("text.final_norm.weight");
  final_bias_ = w.vector("text.final_norm.bias");
}

void CudaDecoder::upload_rotary() {
  if (architecture_.rotary_dims == 0) return;
  std::vector<float> cosines, sines;
  make_rotary(cosines, sines, architecture_);
  model::upload(buffers_->cosines, cosines.data(), 4 * cosines.size(), stream_);
  model::upload(buffers_->sines, sines.data(), 4 * sines.size(), stream_);
  stream_.wait();
}

// What a kernel cannot take should show now, not at the first step.
void CudaDecoder::check_kernels() const {
  const int most = static_cast<int>(options_.max_tokens);
  StepShape single;
  single.tokens = single.singles = single.logit_rows = 1;
  StepShape prompt;
  prompt.tokens = prompt.longest_prompt = 2;
  prompt.prompts = 1;
  const Layer& layer = layers_.front();
  refuse("embedding", cuda::embedding_why_not(embedding_params(single)));
  refuse("norm", cuda::norm_why_not(norm_params(0, single)));
  refuse("norm", cuda::norm_why_not(final_norm_params(single)));
  refuse("qkv_append", cuda::qkv_append_why_not(append_params(layer, single)));
  refuse("paged_attention", cuda::paged_attention_why_not(singles_params(layer, 0, 1)));
  if (!inputs_.limits().tokens_are_sequences && most > 1 && architecture_.max_positions > 1) {
    refuse("prefill_attention", cuda::prefill_attention_why_not(prompts_params(layer, prompt)));
  }
  const auto check_product = [&](const CudaMatrix& matrix, int64_t rows) {
    const Product product{buffers_->mlp, false, false, buffers_->h, rows};
    const int64_t shared = options_.shared_bytes_per_block;
    const int blocks = options_.multiprocessors;
    switch (matrix.form.form) {
      case CudaForm::kInt4:
        return refuse("int4_gemm",
                      cuda::int4_gemm_why_not(gemm_params<cuda::Int4GemmParams>(matrix, product),
                                              shared, blocks));
      case CudaForm::kInt8:
        return refuse("int8_gemm",
                      cuda::int8_gemm_why_not(gemm_params<cuda::Int8GemmParams>(matrix, product),
                                              shared, blocks));
      case CudaForm::kF16:
      case CudaForm::kBF16:
        return refuse("half_gemm",
                      cuda::half_gemm_why_not(gemm_params<cuda::HalfGemmParams>(matrix, product),
                                              shared, blocks));
      case CudaForm::kF32:
        return refuse("float_gemm",
                      cuda::float_gemm_why_not(gemm_params<cuda::FloatGemmParams>(matrix, product),
                                               shared, blocks));
    }
  };
  for (const int64_t rows : {int64_t{1}, options_.max_tokens}) {  // tiles of few tokens and of many
    for (const CudaMatrix& matrix : {layer.qkv, layer.fc1, layer.out, layer.fc2}) {
      check_product(matrix, rows);
    }
  }
  check_product(head_, 1);
  check_product(head_, options_.max_logit_rows);
}

// --- the problems -------------------------------------------------------------------------------
cuda::EmbeddingParams CudaDecoder::embedding_params(const StepShape& shape) const {
  const CudaEmbedding table = weights_->embedding();
  cuda::EmbeddingParams p;
  p.tokens = shape.tokens;
  p.vocab = architecture_.vocab;
  p.width = architecture_.width;
  p.given_rows =
      options_.max_tokens;  // of the struct: not a number that a graph would have to know
  p.kind = table.kind;
  p.y = buffers_->x;
  p.rows = table.rows;
  p.scales = table.scales;
  p.given = buffers_->given.given;
  p.ids = buffers_->given.ids;
  return p;
}

void CudaDecoder::set_output(cuda::NormParams& p, void* y, CudaForm form) const {
  if (form == CudaForm::kF32) {
    p.y_float = static_cast<float*>(y);
  } else {
    p.y = static_cast<Half*>(y);
  }
}

// The branches of a finished layer, which the norm after it adds to x.
void CudaDecoder::add_branches(cuda::NormParams& p, const Layer& layer) const {
  p.attention = buffers_->attention;
  p.mlp = buffers_->mlp;
  p.rms_weight = layer.post_weight;
  p.rms_eps = architecture_.rms_norm_eps;
}

cuda::NormParams CudaDecoder::norm_params(int64_t layer, const StepShape& shape) const {
  cuda::NormParams p;
  p.rows = shape.tokens;
  p.width = architecture_.width;
  p.eps = architecture_.norm_eps;
  p.residual = buffers_->x;
  p.weight = layers_[static_cast<size_t>(layer)].norm_weight;
  p.bias = layers_[static_cast<size_t>(layer)].norm_bias;
  set_output(p, buffers_->h, body_form_);
  if (layer == 0) return p;
  add_branches(p, layers_[static_cast<size_t>(layer) - 1]);
  p.sum = buffers_->x;
  return p;
}

cuda::NormParams CudaDecoder::final_norm_params(const StepShape& shape) const {
  cuda::NormParams p;
  p.rows = shape.logit_rows;
  p.width = architecture_.width;
  p.eps = architecture_.norm_eps;
  p.residual = buffers_->x;
  p.weight = final_weight_;
  p.bias = final_bias_;
  p.source_rows = buffers_->given.logit_sources;
  set_output(p, buffers_->last, head_form_);
  add_branches(p, layers_.back());
  return p;
}

cuda::QkvAppendParams CudaDecoder::append_params(const Layer& layer, const StepShape& shape) const {
  const Architecture& a = architecture_;
  cuda::QkvAppendParams p;
  p.tokens = shape.tokens;
  p.heads = static_cast<int>(a.heads);
  p.head_dim = static_cast<int>(a.head_dim);
  p.rotary_dims = static_cast<int>(a.rotary_dims);
  p.rotary_positions = static_cast<int>(a.max_positions);
  p.sequences = shape.singles + shape.prompts;
  p.max_pages = static_cast<int>(inputs_.limits().max_pages());
  p.pages = static_cast<int>(page_shape_.pages);
  p.eps = a.norm_eps;
  p.kind = page_shape_.kind;
  p.q_kind = query_kind(page_shape_.kind);
  p.q = buffers_->q;
  p.k_pages = layer.pages.k;
  p.v_pages = layer.pages.v;
  p.k_scales = layer.pages.k_scales;
  p.v_scales = layer.pages.v_scales;
  p.qkv = buffers_->qkv;
  p.positions = buffers_->given.positions;
  p.sequence_of = buffers_->given.sequence_of;
  p.block_table = buffers_->given.tables;
  p.q_weight = layer.q_weight;
  p.q_bias = layer.q_bias;
  p.k_weight = layer.k_weight;
  p.k_bias = layer.k_bias;
  if (a.rotary_dims) {
    p.cos = buffers_->cosines;
    p.sin = buffers_->sines;
  }
  return p;
}

// Sequences first... of the singles, whose rows and tables have the same numbers.
cuda::PagedAttentionParams CudaDecoder::singles_params(const Layer& layer, int first,
                                                       int count) const {
  const Architecture& a = architecture_;
  const int64_t at = first * a.width;
  cuda::PagedAttentionParams p;
  p.sequences = count;
  p.heads = static_cast<int>(a.heads);
  p.head_dim = static_cast<int>(a.head_dim);
  p.max_pages = static_cast<int>(inputs_.limits().max_pages());
  p.scale = 1.0f / std::sqrt(static_cast<float>(a.head_dim));
  p.kind = page_shape_.kind;
  p.out_is_half = body_form_ != CudaForm::kF32;
  p.out = static_cast<uint8_t*>(buffers_->mixed) +
          at * static_cast<int64_t>(cuda_element_bytes(body_form_));
  p.partial = buffers_->partial;
  p.q = static_cast<const uint8_t*>(buffers_->q) + at * cuda::kv_query_bytes(page_shape_.kind);
  p.k_pages = layer.pages.k;
  p.v_pages = layer.pages.v;
  p.k_scales = layer.pages.k_scales;
  p.v_scales = layer.pages.v_scales;
  p.block_table = buffers_->given.tables + int64_t{first} * p.max_pages;
  p.lengths = buffers_->given.lengths + first;
  return p;
}

cuda::PrefillAttentionParams CudaDecoder::prompts_params(const Layer& layer,
                                                         const StepShape& shape) const {
  const Architecture& a = architecture_;
  cuda::PrefillAttentionParams p;
  p.sequences = shape.prompts;
  p.heads = static_cast<int>(a.heads);
  p.head_dim = static_cast<int>(a.head_dim);
  p.max_pages = static_cast<int>(inputs_.limits().max_pages());
  p.max_tokens = shape.longest_prompt;
  p.scale = 1.0f / std::sqrt(static_cast<float>(a.head_dim));
  p.kind = page_shape_.kind;
  p.out_is_half = body_form_ != CudaForm::kF32;
  p.out = buffers_->mixed;
  p.q = buffers_->q;
  p.k_pages = layer.pages.k;
  p.v_pages = layer.pages.v;
  p.k_scales = layer.pages.k_scales;
  p.v_scales = layer.pages.v_scales;
  p.block_table = buffers_->given.tables + int64_t{shape.singles} * p.max_pages;
  p.first_tokens = buffers_->given.first_rows;
  p.tokens = buffers_->given.new_tokens;
  p.contexts = buffers_->given.contexts;
  return p;
}

template <class Params>
Params CudaDecoder::gemm_params(const CudaMatrix& matrix, const Product& product) const {
  Params p;
  p.m = product.rows;
  p.n = matrix.rows;
  p.k = matrix.columns;
  p.y = product.y;
  p.y_is_element = product.y_is_half;
  p.gelu = product.gelu;
  p.x = product.x;
  p.bias = matrix.bias;
  p.weights = static_cast<decltype(p.weights)>(matrix.weights);
  if constexpr (std::is_same_v<Params, cuda::Int4GemmParams>) {
    p.group = matrix.form.group;
    p.scales = matrix.scales;
    p.zeros = matrix.zeros;
  } else if constexpr (!std::is_same_v<Params, cuda::FloatGemmParams>) {
    p.row_scales = matrix.row_scales;
  }
  give_workspace(p, work_of(p, options_.multiprocessors));
  return p;
}

// Every launch finds its counters zero and leaves them so, but how many there are differs: were
// they to begin at one address, those of one product would lie in the sums of another. So they end
// at one address, and all of them lie in a zone that nobody else writes.
void CudaDecoder::give_workspace(cuda::GemmProblem& p, const cuda::GemmWork& work) const {
  const int64_t before = buffers_->counter_bytes - cuda::gemm_counter_bytes(work);
  p.workspace = buffers_->workspace + before;
  p.workspace_bytes = buffers_->workspace_bytes - before;
}

// --- a step -------------------------------------------------------------------------------------
cuda::Launch CudaDecoder::on_stream(int blocks) const {
  cuda::Launch out = stream_.launch();
  out.blocks = blocks;
  out.shared_bytes_per_block = options_.shared_bytes_per_block;
  return out;
}

// Chosen for the rows that a graph of such a step would have.
bool CudaDecoder::few_rows(cuda::Int4GemmParams p) const {
  int64_t rows = 1;
  while (rows < p.m) rows *= 2;
  p.m = rows;
  return takes_gemv(p, options_.shared_bytes_per_block);
}

void CudaDecoder::multiply(const CudaMatrix& matrix, const Product& product) const {
  const cuda::Launch gemm = on_stream(options_.multiprocessors);
  switch (matrix.form.form) {
    case CudaForm::kInt4: {
      const auto p = gemm_params<cuda::Int4GemmParams>(matrix, product);
      if (!few_rows(p)) return run_kernel(p, gemm);
      return run_kernel(gemv_of(p), on_stream(kGemvBlocks * gemm.blocks));
    }
    case CudaForm::kInt8:
      return run_kernel(gemm_params<cuda::Int8GemmParams>(matrix, product), gemm);
    case CudaForm::kF16:
    case CudaForm::kBF16:
      return run_kernel(gemm_params<cuda::HalfGemmParams>(matrix, product), gemm);
    case CudaForm::kF32:
      return run_kernel(gemm_params<cuda::FloatGemmParams>(matrix, product), gemm);
  }
}

void CudaDecoder::attend(const Layer& layer, const StepShape& shape) const {
  const int at_once = static_cast<int>(kSinglesAtOnce);
  for (int first = 0; first < shape.singles; first += at_once) {
    run_kernel(singles_params(layer, first, std::min(at_once, shape.singles - first)),
               on_stream(1));
  }
  if (shape.prompts) run_kernel(prompts_params(layer, shape), on_stream(1));
}

void CudaDecoder::run_layer(int64_t index, const StepShape& shape) const {
  const Layer& layer = layers_[static_cast<size_t>(index)];
  const Buffers& b = *buffers_;
  const bool half = body_form_ != CudaForm::kF32;
  run_kernel(norm_params(index, shape), on_stream(1));
  multiply(layer.qkv, {b.qkv, false, false, b.h, shape.tokens});
  multiply(layer.fc1, {b.gelu, half, true, b.h, shape.tokens});
  run_kernel(append_params(layer, shape), on_stream(1));
  attend(layer, shape);
  multiply(layer.out, {b.attention, false, false, b.mixed, shape.tokens});
  multiply(layer.fc2, {b.mlp, false, false, b.gelu, shape.tokens});
}

void CudaDecoder::run_head(const StepShape& shape) const {
  run_kernel(final_norm_params(shape), on_stream(1));
  multiply(head_, {buffers_->logits, false, false, buffers_->last, shape.logit_rows});
}

bool CudaDecoder::launch(const StepShape& shape, const std::atomic<bool>* stop) const {
  run_kernel(embedding_params(shape), on_stream(1));
  for (int64_t l = 0; l < architecture_.layers; ++l) {
    if (stop && stop->load(std::memory_order_relaxed)) return false;
    run_layer(l, shape);
  }
  if (shape.logit_rows) run_head(shape);
  return true;
}

const StepShape& CudaDecoder::prepare(const DeviceSegment* segments, int64_t count) {
  stream_.wait();
  shape_ = inputs_.fill(staging_.data(), segments, count);
  return shape_;
}

StepShape CudaDecoder::padded_shape(int64_t rows) {
  StepShape out;
  out.tokens = out.singles = out.logit_rows = static_cast<int>(rows);
  return out;
}

uint8_t* CudaDecoder::front_device() const { return buffers_->given.front; }

const StepArrays& CudaDecoder::inputs() const { return buffers_->given; }

void CudaDecoder::upload() const {
  model::upload(buffers_->step, staging_.data(), inputs_.used_bytes(), stream_);
}

bool CudaDecoder::start(const DeviceSegment* segments, int64_t count,
                        const std::atomic<bool>* stop) {
  prepare(segments, count);
  upload();
  return launch(shape_, stop);
}

bool CudaDecoder::step(const DeviceSegment* segments, int64_t count,
                       const std::atomic<bool>* stop) {
  const bool done = start(segments, count, stop);
  stream_.wait();
  return done;
}

const float* CudaDecoder::logits(int64_t row) const {
  if (row < 0 || row >= shape_.logit_rows) {
    throw InvalidArgument(concat("logit row is ", row, ", the last step had ", shape_.logit_rows));
  }
  return buffers_->logits + row * architecture_.vocab;
}

void CudaDecoder::read_logits(float* out, int64_t row) const {
  download(out, logits(row), static_cast<size_t>(4 * architecture_.vocab), stream_);
}

void CudaDecoder::start_reading(float* out, int64_t first, int64_t count) const {
  if (count == 0) return;
  if (count < 0 || first + count > shape_.logit_rows) {
    throw InvalidArgument(concat("rows ", first, "..", first + count - 1,
                                 " are read, the last step had ", shape_.logit_rows));
  }
  start_download(out, logits(first), static_cast<size_t>(4 * architecture_.vocab * count), stream_);
}

const float* CudaDecoder::all_logits() const { return buffers_->logits; }

}  // namespace tgv::model
