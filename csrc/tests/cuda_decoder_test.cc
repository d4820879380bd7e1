// model/cuda against the decoder of the CPU in float32. Compiled for the emulation and, by nvcc,
// for a GPU.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <deque>
#include <numeric>
#include <random>

#include "base/float16.h"
#include "model/cuda/decoder.h"
#include "tests/check.h"
#include "tests/cpu_decoder.h"
#include "tests/schedules.h"
#include "tests/tolerance.h"

namespace tgv::test {
namespace {

using namespace tgv::model;
using cuda::KvKind;
using Role = CudaTensor::Role;

Architecture architecture(int64_t layers = 3, int64_t heads = 2, int64_t head_dim = 80,
                          int64_t mlp_width = 320) {
  Architecture a;
  a.layers = layers, a.heads = heads, a.head_dim = head_dim, a.width = heads * head_dim;
  a.rotary_dims = 32, a.mlp_width = mlp_width, a.vocab = 300, a.max_positions = 192;
  return a;
}

// --- a model: every tensor as it is given to a GPU, and its values for the CPU ------------------
struct Tensor {
  std::vector<uint8_t> int4, zeros;
  std::vector<uint16_t> scales;
  std::vector<int8_t> int8;
  std::vector<float> row_scales;
  std::vector<uint16_t> bf16;
};

struct Model {
  Architecture architecture;
  CudaForms forms;
  std::map<std::string, Tensor> tensors;
  FloatTensors values;
};

void set_nibble(std::vector<uint8_t>& rows, size_t row_bytes, size_t row, size_t i, unsigned v) {
  rows[row * row_bytes + i / 2] |= static_cast<uint8_t>(v << (i % 2 * 4));
}

// Levels of deviation 4.6, and so matrices that keep the size of what they multiply.
std::vector<float> make_int4(Tensor& t, const CudaTensor& shape, std::mt19937& random) {
  const size_t N = static_cast<size_t>(shape.rows), K = static_cast<size_t>(shape.columns);
  const size_t G = static_cast<size_t>(shape.form.group), groups = (K + G - 1) / G;
  const size_t level_bytes = (K + 1) / 2, zero_bytes = (groups + 1) / 2;
  std::uniform_real_distribution<float> spread(0.75f, 1.25f);
  t.int4.assign(N * level_bytes, 0);
  t.zeros.assign(N * zero_bytes, 0);
  std::vector<float> values(N * K);
  for (size_t n = 0; n < N; ++n) {
    for (size_t g = 0; g < groups; ++g) {
      const unsigned zero = shape.form.symmetric ? 8 : 6 + random() % 4;
      const float size = spread(random) / 4.6f / std::sqrt(static_cast<float>(K));
      t.scales.push_back(float_to_half(random() % 2 ? size : -size));
      set_nibble(t.zeros, zero_bytes, n, g, zero);
      for (size_t k = g * G; k < std::min(K, (g + 1) * G); ++k) {
        const unsigned level = random() % 16;
        set_nibble(t.int4, level_bytes, n, k, level);
        values[n * K + k] =
            (static_cast<float>(level) - static_cast<float>(zero)) * half_to_float(t.scales.back());
      }
    }
  }
  return values;
}

// Levels of deviation 73.6.
std::vector<float> make_int8(Tensor& t, const CudaTensor& shape, std::mt19937& random) {
  const size_t N = static_cast<size_t>(shape.rows), K = static_cast<size_t>(shape.columns);
  std::uniform_real_distribution<float> spread(0.75f, 1.25f);
  std::vector<float> values;
  for (size_t n = 0; n < N; ++n) {
    t.row_scales.push_back(spread(random) / 73.6f / std::sqrt(static_cast<float>(K)));
    for (size_t k = 0; k < K; ++k) {
      t.int8.push_back(static_cast<int8_t>(static_cast<int>(random() % 255) - 127));
      values.push_back(t.int8.back() * t.row_scales.back());
    }
  }
  return values;
}

std::vector<float> make_bfloat16(Tensor& t, const CudaTensor& shape, std::mt19937& random) {
  std::normal_distribution<float> normal(0.0f, 1 / std::sqrt(static_cast<float>(shape.columns)));
  std::vector<float> values;
  for (int64_t i = 0; i < shape.rows * shape.columns; ++i) {
    t.bf16.push_back(float_to_bfloat16(normal(random)));
    values.push_back(bfloat16_to_float(t.bf16.back()));
  }
  return values;
}

std::vector<float> make_embedding(Tensor& t, const CudaTensor& shape, std::mt19937& random) {
  const size_t C = static_cast<size_t>(shape.columns);
  std::vector<float> values;
  for (int64_t row = 0; row < shape.rows; ++row) {
    t.row_scales.push_back(0.01f + 0.00001f * static_cast<float>(row));
    for (size_t i = 0; i < C; ++i) {
      t.int8.push_back(static_cast<int8_t>(static_cast<int>(random() % 255) - 127));
      values.push_back(t.int8.back() * t.row_scales.back());
    }
  }
  return values;
}

std::vector<float> make_vector(const CudaTensor& shape, std::mt19937& random) {
  const std::string suffix = "norm.weight";
  const bool weight =
      shape.name.size() > suffix.size() &&
      shape.name.compare(shape.name.size() - suffix.size(), suffix.size(), suffix) == 0;
  std::normal_distribution<float> normal(weight ? 1.0f : 0.0f, 0.2f);
  std::vector<float> values(static_cast<size_t>(shape.rows));
  for (float& value : values) value = normal(random);
  return values;
}

std::vector<float> make_matrix(Tensor& t, const CudaTensor& shape, std::mt19937& random) {
  if (shape.form.form == CudaForm::kInt8) return make_int8(t, shape, random);
  if (shape.form.form == CudaForm::kBF16) return make_bfloat16(t, shape, random);
  return make_int4(t, shape, random);
}

// The values are those of the matrices as `forms` stores them: every mode can compute this model.
Model make_model(const Architecture& a, const CudaForms& forms) {
  std::mt19937 random(7);
  Model m;
  m.architecture = a;
  m.forms = forms;
  const CudaWeights shapes(a, m.forms);
  for (const CudaTensor& shape : shapes.tensors()) {
    Tensor t;
    m.values[shape.name] = shape.role == Role::kMatrix      ? make_matrix(t, shape, random)
                           : shape.role == Role::kEmbedding ? make_embedding(t, shape, random)
                                                            : make_vector(shape, random);
    m.tensors[shape.name] = std::move(t);
  }
  return m;
}

Model make_model(const Architecture& a, int group = 32, bool symmetric = true) {
  CudaForms forms;
  forms.body = forms.head = {CudaForm::kInt4, group, symmetric};
  return make_model(a, forms);
}

void put(CudaWeights& weights, const Model& m, const CudaTensor& shape) {
  const Tensor& t = m.tensors.at(shape.name);
  const std::vector<float>& values = m.values.at(shape.name);
  MatrixSource source;
  source.int4 = t.int4.data(), source.zeros = t.zeros.data(), source.scales = t.scales.data();
  source.int8 = t.int8.data(), source.row_scales = t.row_scales.data();
  if (shape.form.form == CudaForm::kBF16 && !t.bf16.empty()) {
    source.bf16 = t.bf16.data();
  } else {
    source.f32 = values.data();
  }
  if (shape.role == Role::kMatrix) return weights.put_matrix(shape.name, source);
  if (shape.role == Role::kEmbedding) return weights.put_embedding(source);
  weights.put_vector(shape.name, values.data(), static_cast<int64_t>(values.size()));
}

std::shared_ptr<const CudaWeights> make_weights(const Model& m, const CudaForms& forms) {
  auto weights = std::make_shared<CudaWeights>(m.architecture, forms);
  for (const CudaTensor& shape : weights->tensors()) put(*weights, m, shape);
  return weights;
}

CudaForms exact_forms() {
  CudaForms forms;
  forms.body.form = forms.head.form = CudaForm::kF32;
  forms.embedding = cuda::EmbeddingKind::kF32;
  return forms;
}

// --- sequences and the steps they take ----------------------------------------------------------
struct Part {
  int sequence;
  int64_t count, logit_rows;
  bool given = false;  // every third position has a vector in place of an id
};
using Script = std::vector<std::vector<Part>>;  // steps

// Which pages sequences have, and what stands at their positions.
class Sequences {
 public:
  static constexpr int kMost = 10;

  explicit Sequences(const Architecture& a) : architecture_(a), lengths_(kMost, 0) {
    const int pages = static_cast<int>((a.max_positions + 15) / 16);
    std::vector<int32_t> order(static_cast<size_t>(pages * kMost));
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), std::mt19937(3));
    for (int s = 0; s < kMost; ++s) {
      tables_.emplace_back(order.begin() + s * pages, order.begin() + (s + 1) * pages);
    }
  }
  int64_t pages() const { return static_cast<int64_t>(tables_.size() * tables_[0].size()); }

  std::vector<DeviceSegment> step(const std::vector<Part>& parts) {
    std::vector<DeviceSegment> segments;
    for (const Part& part : parts) {
      const size_t s = static_cast<size_t>(part.sequence);
      tokens_.emplace_back();
      for (int64_t i = 0; i < part.count; ++i) {
        tokens_.back().push_back(token(part.sequence, lengths_[s] + i, part.given));
      }
      segments.push_back({tables_[s].data(), static_cast<int64_t>(tables_[s].size()), lengths_[s],
                          tokens_.back().data(), part.count, part.logit_rows});
      lengths_[s] += part.count;
    }
    return segments;
  }

 private:
  // The same at a position whichever step brings it.
  StepToken token(int sequence, int64_t position, bool given) {
    const int64_t id = (position * 7 + sequence * 31) % architecture_.vocab;
    if (!given || position % 3) return {static_cast<int32_t>(id), nullptr};
    std::mt19937 random(static_cast<unsigned>(id));
    std::normal_distribution<float> normal;
    vectors_.emplace_back();
    for (int64_t i = 0; i < architecture_.width; ++i) vectors_.back().push_back(normal(random));
    return {-1, vectors_.back().data()};
  }

  const Architecture architecture_;
  std::vector<std::vector<int32_t>> tables_;
  std::vector<int64_t> lengths_;
  std::deque<std::vector<StepToken>> tokens_;
  std::deque<std::vector<float>> vectors_;
};

// A decoder on the device with its pages.
struct Rig {
  Rig(const Model& m, const CudaForms& forms, KvKind kind, CudaDecoderOptions options = {},
      int64_t logit_rows = 64)
      : sequences(m.architecture),
        vocab(static_cast<size_t>(m.architecture.vocab)),
        storage({sequences.pages(), m.architecture.layers, m.architecture.heads,
                 m.architecture.head_dim, kind}),
        decoder(make_weights(m, forms), storage, with_rows(options, logit_rows)) {}

  static CudaDecoderOptions with_rows(CudaDecoderOptions options, int64_t logit_rows) {
    options.max_tokens = 128;
    options.max_logit_rows = logit_rows;
    return options;
  }

  std::vector<float> step(const std::vector<DeviceSegment>& segments) {
    CHECK(decoder.step(segments.data(), static_cast<int64_t>(segments.size())));
    std::vector<float> logits(static_cast<size_t>(decoder.logit_rows()) * vocab);
    for (int64_t row = 0; row < decoder.logit_rows(); ++row) {
      decoder.read_logits(logits.data() + static_cast<size_t>(row) * vocab, row);
    }
    return logits;
  }
  std::vector<float> step(const std::vector<Part>& parts) { return step(sequences.step(parts)); }

  std::vector<float> run(const Script& script) {
    std::vector<float> all;
    for (const std::vector<Part>& parts : script) {
      const std::vector<float> logits = step(parts);
      all.insert(all.end(), logits.begin(), logits.end());
    }
    return all;
  }

  Sequences sequences;
  size_t vocab;
  CudaStorage storage;
  CudaDecoder decoder;
};

std::vector<float> run_on_cpu(const Model& m, const Script& script) {
  Sequences sequences(m.architecture);
  CpuDecoder decoder(m.architecture, m.values, sequences.pages());
  std::vector<float> all;
  for (const std::vector<Part>& parts : script) {
    const std::vector<float> logits = decoder.step(sequences.step(parts));
    all.insert(all.end(), logits.begin(), logits.end());
  }
  return all;
}

// --- comparison ---------------------------------------------------------------------------------
double root_mean_square(const std::vector<float>& values) {
  double sum = 0;
  for (float value : values) sum += static_cast<double>(value) * value;
  return std::sqrt(sum / static_cast<double>(values.size()));
}

// Of what an f32 sum of `terms` products without a pattern loses, the variance relative to the sum:
// its first i terms are about sqrt(i) products large and lose at most a unit of that, evenly
// spread, which is units^2 i / 3, and all of them units^2 terms^2 / 6 of terms.
double sum_variance(double terms) { return kFloatUnit * kFloatUnit * terms / 6; }
double roundings_variance(double count) { return kFloatUnit * kFloatUnit * count / 3; }

// f32 throughout, on both sides, with sums in different orders. Products and norms of these models
// keep norms, so what is lost anywhere arrives at the logits as large as it was, and losses that
// know nothing of each other add their variances. Sums of a layer: its norm (mean and variance),
// qkv, norms of q and k, q k, the softmax and v, out, the norm after it, fc1, fc2; eight roundings
// besides at each. A logit may be at six deviations: of a million normal numbers none is.
double exact_tolerance(const Architecture& a, const std::vector<float>& logits) {
  const double C = static_cast<double>(a.width), F = static_cast<double>(a.mlp_width);
  const double D = static_cast<double>(a.head_dim), T = static_cast<double>(a.max_positions);
  const double layer = sum_variance(6 * C + 3 * D + 2 * T + F) + roundings_variance(12 * 8);
  const double last = sum_variance(3 * C) + roundings_variance(3 * 8);
  const double deviation = std::sqrt(2 * (static_cast<double>(a.layers) * layer + last));
  return 6 * deviation * root_mean_square(logits);
}

// What an element of K or V is off by at most, relative to its row's root mean square: int8 by half
// of a level, the largest of a row being about 2.7 of these.
double page_unit(KvKind kind) {
  switch (kind) {
    case KvKind::kF32:
      return kFloatUnit;
    case KvKind::kF16:
      return 0x1p-11;
    case KvKind::kBF16:
      return 0x1p-8;
    case KvKind::kI8:
      return 2.7 / 254;
    case KvKind::kE4M3:
      return 0x1p-4;
  }
  return NAN;
}

// Every rounding to f16 moves a row by at most 2^-11 of its norm. Products and norms of these
// models keep norms, so what the roundings of a step move adds up to no more than their number,
// relative to logits. Of a layer: the normed row, the weights and biases of four products, the
// attention's output and the GELU, 11; over f32 and f16 pages q and the weights of attention, too,
// of the page's own unit over bf16; K and V. The last norm, the head and its bias: 3.
double half_tolerance(KvKind kind, int64_t layers) {
  const double half = 0x1p-11, page = page_unit(kind);
  const double query = kind == KvKind::kBF16 ? page : half;
  return static_cast<double>(layers) * (11 * half + 2 * query + 2 * page) + 3 * half;
}

// Prints the largest difference: a tolerance that nothing comes near proves little.
void check_close(const char* name, const std::vector<float>& got,
                 const std::vector<float>& expected, double allowed) {
  CHECK_EQ(got.size(), expected.size());
  double worst = 0;
  size_t where = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double difference = std::fabs(static_cast<double>(got[i]) - expected[i]);
    if (difference <= worst) continue;
    worst = std::isnan(difference) ? INFINITY : difference;
    where = i;
  }
  for (size_t i = 0; i < got.size(); ++i) {
    if (std::isnan(got[i])) worst = INFINITY, where = i;
  }
  std::printf("     %s: off by %.2g of %.2g allowed\n", name, worst, allowed);
  if (!(worst <= allowed)) {
    fail(__FILE__, __LINE__,
         concat(name, ": logit ", where, " is ", got[where], ", expected ", expected[where],
                " within ", allowed));
  }
}

void check_half(const char* name, const Model& m, KvKind kind, const std::vector<float>& got,
                const std::vector<float>& expected) {
  check_close(name, got, expected,
              half_tolerance(kind, m.architecture.layers) * root_mean_square(expected));
}

void check_exact(const char* name, const Model& m, const std::vector<float>& got,
                 const std::vector<float>& expected) {
  check_close(name, got, expected, exact_tolerance(m.architecture, expected));
}

// Prompts alone and beside decoding, in pieces, over a page's and a cut's edge, logits in the
// middle of the order.
const Script kMixed = {
    {{0, 21, 2}},
    {{0, 1, 1}, {1, 13, 1}},
    {{1, 4, 3}, {0, 1, 1}, {2, 5, 5, true}},
    {{2, 1, 1}, {1, 50, 2, true}, {0, 1, 0}, {3, 2, 1}},
    {{0, 1, 1}, {1, 1, 1}, {2, 1, 1}, {3, 1, 1}},
    {{1, 1, 1}},
};

TEST(exact_mode_is_the_cpus) {
  const Model m = make_model(architecture());
  check_exact("mixed steps", m, Rig(m, exact_forms(), KvKind::kF32).run(kMixed),
              run_on_cpu(m, kMixed));
}

// 16 steps of columns: products whose tiles blocks share, with different numbers of counters.
TEST(exact_mode_with_tiles_that_blocks_share) {
  const Model m = make_model(architecture(2, 8, 64, 700));
  const Script script = {{{0, 20, 1}}, {{0, 1, 1}, {1, 3, 1}}};
  CudaDecoderOptions options;
  options.multiprocessors = 7;
  Rig rig(m, exact_forms(), KvKind::kF32, options);
  check_exact("D=64, C=512", m, rig.run(script), run_on_cpu(m, script));
}

TEST(exact_mode_is_bit_equal_however_a_prompt_is_cut) {
  const Model m = make_model(architecture(2));
  const std::vector<float> whole = Rig(m, exact_forms(), KvKind::kF32).run({{{0, 40, 40}}});
  const Script cut = {{{0, 7, 7}}, {{0, 1, 1}}, {{0, 17, 17}}, {{0, 15, 15}}};
  CHECK(Rig(m, exact_forms(), KvKind::kF32).run(cut) == whole);
  Rig company(m, exact_forms(), KvKind::kF32);
  CHECK(company.step(std::vector<Part>{{1, 30, 0}, {0, 40, 40}, {2, 1, 0}}) == whole);
}

TEST(int4_over_every_kind_of_page) {
  const Model m = make_model(architecture(2));
  const std::vector<float> expected = run_on_cpu(m, kMixed);
  const char* names[] = {"f32 pages", "f16 pages", "bf16 pages", "int8 pages", "e4m3 pages"};
  for (int kind = 0; kind < cuda::kKvKinds; ++kind) {
    const KvKind k = static_cast<KvKind>(kind);
    check_half(names[kind], m, k, Rig(m, m.forms, k).run(kMixed), expected);
  }
}

TEST(three_layers_of_int4) {
  const Model m = make_model(architecture());
  const Script script = {{{0, 21, 2}, {1, 1, 1}}, {{0, 1, 1}, {1, 1, 1}}};
  check_half("three layers", m, KvKind::kF16, Rig(m, m.forms, KvKind::kF16).run(script),
             run_on_cpu(m, script));
}

TEST(asymmetric_groups_of_every_size) {
  for (int group : {32, 64, 128}) {
    const Model m = make_model(architecture(2), group, false);
    const Script script = {{{0, 11, 1}}, {{0, 1, 1}, {1, 1, 1}}};
    check_half("asymmetric", m, KvKind::kF16, Rig(m, m.forms, KvKind::kF16).run(script),
               run_on_cpu(m, script));
  }
}

// Single rows, prompts in pieces, and a prompt that takes tiles of 128 tokens.
void check_form(const char* name, CudaForm body, CudaForm head) {
  CudaForms forms;
  forms.body.form = body, forms.head.form = head;
  const Model m = make_model(architecture(2), forms);
  check_half(name, m, KvKind::kF16, Rig(m, forms, KvKind::kF16).run(kMixed), run_on_cpu(m, kMixed));
  const Script prompt = {{{0, 90, 70}}, {{0, 1, 1}}};
  check_half(name, m, KvKind::kI8, Rig(m, forms, KvKind::kI8, {}, 80).run(prompt),
             run_on_cpu(m, prompt));
}

TEST(int8_weights) { check_form("int8", CudaForm::kInt8, CudaForm::kInt8); }

TEST(int4_weights_with_an_int8_head) {
  check_form("int4, int8 head", CudaForm::kInt4, CudaForm::kInt8);
}

TEST(bfloat16_weights) { check_form("bf16", CudaForm::kBF16, CudaForm::kBF16); }

TEST(bfloat16_weights_given_in_float32_are_rounded) {
  CudaForms forms;
  forms.body.form = forms.head.form = CudaForm::kBF16;
  Model m = make_model(architecture(1), forms);
  const Script script = {{{0, 5, 1}}};
  const std::vector<float> expected = Rig(m, forms, KvKind::kF16).run(script);
  for (auto& [name, tensor] : m.tensors) {
    if (tensor.bf16.empty()) continue;
    tensor.bf16.clear();
    for (float& value : m.values.at(name)) value *= 1 + 0x1p-10f;  // less than half a unit
  }
  CHECK(Rig(m, forms, KvKind::kF16).run(script) == expected);
  m.values.at("text.head")[7] = INFINITY;
  CHECK_THROWS(InvalidArgument, make_weights(m, forms),
               "text.head holds a weight that is infinite");
}

TEST(int8_weights_do_not_depend_on_company) {
  CudaForms forms;
  forms.body.form = forms.head.form = CudaForm::kInt8;
  const Model m = make_model(architecture(1), forms);
  Rig alone(m, forms, KvKind::kF16), together(m, forms, KvKind::kF16);
  alone.step(std::vector<Part>{{1, 9, 0}});
  together.step(std::vector<Part>{{0, 70, 0}, {1, 9, 0}});
  const std::vector<float> one = alone.step(std::vector<Part>{{1, 1, 1}});
  CHECK(together.step(std::vector<Part>{{0, 1, 0}, {1, 1, 1}, {2, 1, 0}}) == one);
}

TEST(one_to_nine_decoding_rows) {
  const Model m = make_model(architecture(2));
  for (int rows : {1, 2, 8, 9}) {
    Script script(2);
    for (int s = 0; s < rows; ++s) {
      script[0].push_back({s, 3 + s, 0});
      script[1].push_back({s, 1, 1});
    }
    const std::string name = concat(rows, " rows");
    check_half(name.c_str(), m, KvKind::kF16, Rig(m, m.forms, KvKind::kF16).run(script),
               run_on_cpu(m, script));
  }
}

TEST(decoding_rows_do_not_depend_on_company_up_to_eight) {
  const Model m = make_model(architecture(2));
  Rig alone(m, m.forms, KvKind::kI8), together(m, m.forms, KvKind::kI8);
  const std::vector<Part> prompts = {{0, 20, 0}, {1, 9, 0}, {2, 30, 0}};
  alone.step(prompts);
  together.step(prompts);
  const std::vector<float> one = alone.step(std::vector<Part>{{1, 1, 1}});
  const std::vector<float> all = together.step(std::vector<Part>{{0, 1, 0}, {1, 1, 1}, {2, 1, 0}});
  CHECK(one == all);
}

TEST(a_prompt_in_pieces) {
  const Model m = make_model(architecture(2));
  const Script whole = {{{0, 90, 3}}};
  const Script cut = {{{0, 17, 0}}, {{0, 1, 0}}, {{0, 9, 0}}, {{0, 60, 0}}, {{0, 3, 3}}};
  const std::vector<float> expected = run_on_cpu(m, whole);
  for (KvKind kind : {KvKind::kF16, KvKind::kI8}) {
    const std::vector<float> once = Rig(m, m.forms, kind).run(whole);
    const std::vector<float> pieces = Rig(m, m.forms, kind).run(cut);
    check_half("whole", m, kind, once, expected);
    check_half("in pieces", m, kind, pieces, expected);
    check_half("pieces and whole", m, kind, pieces, once);
  }
}

TEST(given_rows_are_the_embeddings_of_ids) {
  const Model m = make_model(architecture(2));
  Rig ids(m, m.forms, KvKind::kF16), vectors(m, m.forms, KvKind::kF16);
  std::vector<DeviceSegment> segments = ids.sequences.step({{0, 12, 12}, {1, 1, 1}});
  const std::vector<float> expected = ids.step(segments);
  const std::vector<float>& table = m.values.at("text.embed");
  std::vector<std::vector<StepToken>> tokens;
  for (DeviceSegment& segment : segments) {
    tokens.emplace_back(segment.tokens, segment.tokens + segment.count);
    for (size_t i = 0; i < tokens.back().size(); i += 2) {
      StepToken& token = tokens.back()[i];
      token = {-1, table.data() + token.id * m.architecture.width};
    }
  }
  for (size_t i = 0; i < segments.size(); ++i) segments[i].tokens = tokens[i].data();
  CHECK(vectors.step(segments) == expected);
}

TEST(other_forms_of_head_and_embedding) {
  const Model m = make_model(architecture(1));
  const Script script = {{{0, 10, 3}}, {{0, 1, 1}}};
  const std::vector<float> expected = run_on_cpu(m, script);
  for (CudaForm head : {CudaForm::kF16, CudaForm::kF32}) {
    CudaForms forms = m.forms;
    forms.head.form = head;
    forms.embedding =
        head == CudaForm::kF16 ? cuda::EmbeddingKind::kF16 : cuda::EmbeddingKind::kBF16;
    // a bf16 table is eight times as coarse as f16, once
    const double table = head == CudaForm::kF16 ? 0x1p-11 : 0x1p-8;
    check_close("head", Rig(m, forms, KvKind::kF16).run(script), expected,
                (half_tolerance(KvKind::kF16, 1) + table) * root_mean_square(expected));
  }
}

// Eight rows of 6000 columns are more than a block of sm_86 holds for the GEMV.
TEST(rows_too_long_for_the_gemv) {
  const Model m = make_model(architecture(1, 2, 80, 6000), 64);
  Script script(1);
  for (int s = 0; s < 8; ++s) script[0].push_back({s, 1, 1});
  CudaDecoderOptions options;
  options.shared_bytes_per_block = 101376;
  check_half("F=6000", m, KvKind::kF16, Rig(m, m.forms, KvKind::kF16, options).run(script),
             run_on_cpu(m, script));
}

TEST(hostile_schedules) {
  const Model m = make_model(architecture(1));
  const Script script = {{{0, 18, 1}, {1, 1, 1}}, {{0, 1, 1}, {1, 1, 1}}};
  const std::vector<float> expected = run_on_cpu(m, script);
  for_each_schedule([&] {
    check_half("int4", m, KvKind::kI8, Rig(m, m.forms, KvKind::kI8).run(script), expected);
    check_exact("exact", m, Rig(m, exact_forms(), KvKind::kF32).run(script), expected);
  });
}

TEST(a_step_given_up_leaves_the_sequence_usable) {
  const Model m = make_model(architecture(1));
  Rig plain(m, m.forms, KvKind::kF16), stopped(m, m.forms, KvKind::kF16);
  const std::vector<DeviceSegment> segments = plain.sequences.step({{0, 10, 1}});
  std::atomic<bool> stop{true};
  CHECK(!stopped.decoder.step(segments.data(), 1, &stop));
  CHECK(stopped.step(segments) == plain.step(segments));
}

TEST(pages_are_copied_in_every_layer) {
  for (int kind = 0; kind < cuda::kKvKinds; ++kind) {
    CudaStorage storage({5, 3, 2, 80, static_cast<KvKind>(kind)});
    const DeviceStream stream;
    const auto bytes = static_cast<size_t>(storage.shape().plane_bytes());
    const auto scales = static_cast<size_t>(storage.shape().scales_bytes());
    const auto each_plane = [&](auto body) {
      for (int64_t l = 0; l < 3; ++l) {
        const CudaPages pages = storage.layer(l);
        body(static_cast<uint8_t*>(pages.k), bytes, 4 * l);
        body(static_cast<uint8_t*>(pages.v), bytes, 4 * l + 1);
        if (!scales) continue;
        body(reinterpret_cast<uint8_t*>(pages.k_scales), scales, 4 * l + 2);
        body(reinterpret_cast<uint8_t*>(pages.v_scales), scales, 4 * l + 3);
      }
    };
    each_plane([&](uint8_t* plane, size_t page, int64_t number) {
      for (size_t p = 0; p < 5; ++p) {
        const std::vector<uint8_t> fill(page, static_cast<uint8_t>(number * 16 + 1 + int64_t(p)));
        upload(plane + p * page, fill.data(), page, stream);
        stream.wait();
      }
    });
    storage.copy_rows(3, 1, 7, stream);
    const int32_t pairs[] = {2, 0};
    storage.copy_pages(pairs, 1, stream);
    const size_t source[] = {2, 1, 2, 1, 4};
    each_plane([&](uint8_t* plane, size_t page, int64_t number) {
      std::vector<uint8_t> got(5 * page);
      download(got.data(), plane, got.size(), stream);
      for (size_t i = 0; i < got.size(); ++i) {
        CHECK_EQ(int{got[i]}, static_cast<int>(number * 16 + 1 + int64_t(source[i / page])));
      }
    });
    CHECK_THROWS(InvalidArgument, storage.copy_rows(5, 1, 7, stream), "to_page is 5");
  }
}

TEST(what_does_not_fit_is_refused) {
  const Model m = make_model(architecture(1));
  Rig rig(m, m.forms, KvKind::kI8);
  const auto step = [&](const std::vector<Part>& parts) { rig.step(parts); };
  CHECK_THROWS(InvalidArgument, step({{0, 129, 1}}), "129 tokens");
  CHECK_THROWS(InvalidArgument, step({{1, 3, 4}}), "logit_rows is 4");
  CHECK_THROWS(InvalidArgument, step({}), "0 tokens");
  CHECK_THROWS(InvalidArgument, rig.decoder.logits(0), "logit row is 0");
  const int32_t table[] = {0, 1 << 20};
  StepToken tokens[17];
  DeviceSegment segment{table, 2, 0, tokens, 17, 1};
  CHECK_THROWS(InvalidArgument, rig.decoder.step(&segment, 1),
               "a page of a block table is 1048576");
  segment.count = 5;
  tokens[4].id = 300;
  CHECK_THROWS(InvalidArgument, rig.decoder.step(&segment, 1), "token id 300 is not in 0..299");
  segment.first_position = 190;
  CHECK_THROWS(InvalidArgument, rig.decoder.step(&segment, 1), "190..194");
  segment.first_position = 28;
  CHECK_THROWS(InvalidArgument, rig.decoder.step(&segment, 1), "its block table 32");
}

TEST(memory_that_is_not_there_is_named) {
  CHECK_THROWS(CapacityError, DeviceMemory(size_t{1} << 63, "a test"),
               "9223372036854775808 bytes of");
  CHECK_THROWS(CapacityError, PinnedMemory(size_t{1} << 63, "a test"), "memory for a test");
}

TEST(what_cannot_be_built_is_refused) {
  const Model m = make_model(architecture(1));
  CudaStorage other({8, 1, 2, 64, KvKind::kI8});
  CHECK_THROWS(InvalidArgument, CudaDecoder(make_weights(m, m.forms), other, {}), "the cache has");
  CudaStorage storage({8, 1, 2, 80, KvKind::kI8});
  CudaWeights weights(m.architecture, m.forms);
  const auto decoder = [&](std::shared_ptr<const CudaWeights> w, const CudaDecoderOptions& o) {
    CudaDecoder(std::move(w), storage, o);
  };
  CHECK_THROWS(InvalidArgument, decoder(std::make_shared<CudaWeights>(m.architecture, m.forms), {}),
               "'text.layers.0.attn.qkv' was never put");
  CudaDecoderOptions small;
  small.shared_bytes_per_block = 49152;
  CHECK_THROWS(InvalidArgument, decoder(make_weights(m, m.forms), small),
               "int4_gemm: a tile needs 93184 bytes");
  const Architecture odd = architecture(1, 2, 72);
  CudaStorage odd_storage({8, 1, 2, 72, KvKind::kI8});
  const Model odd_model = make_model(odd);
  CHECK_THROWS(InvalidArgument,
               CudaDecoder(make_weights(odd_model, odd_model.forms), odd_storage, {}),
               "paged_attention: head_dim is 72");
  MatrixSource nothing;
  CHECK_THROWS(InvalidArgument, weights.put_matrix("text.head", nothing),
               "without its int4 levels");
  CudaForms others;
  others.body.form = CudaForm::kInt8, others.head.form = CudaForm::kBF16;
  CudaWeights other_weights(m.architecture, others);
  CHECK_THROWS(InvalidArgument, other_weights.put_matrix("text.layers.0.attn.qkv", nothing),
               "without its int8 levels");
  CHECK_THROWS(InvalidArgument, other_weights.put_matrix("text.head", nothing),
               "without its bf16 or f32 values");
  CHECK_THROWS(InvalidArgument, weights.put_matrix("text.embed", nothing), "not of that kind");
  CHECK_THROWS(InvalidArgument, weights.put_matrix("text.tail", nothing), "'text.tail' is not");
  const std::vector<float> large(300, 1e6f);
  CHECK_THROWS(InvalidArgument, weights.put_vector("text.head.bias", large.data(), 300),
               "text.head.bias holds 1e+06, which no f16 does");
  CHECK_THROWS(InvalidArgument, weights.put_vector("text.head.bias", large.data(), 299),
               "299 elements, expected 300");
  const std::vector<float> bias(300, 1);
  weights.put_vector("text.head.bias", bias.data(), 300);
  CHECK_THROWS(InvalidArgument, weights.put_vector("text.head.bias", bias.data(), 300),
               "was put before");
}

}  // namespace
}  // namespace tgv::test

TEST_MAIN()
