#include "kernels/cpu/linear_probe.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>

#include "base/errors.h"
#include "base/huge_buffer.h"
#include "base/thread_pool.h"

namespace tgv::cpu {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

uint64_t xor_all(const uint8_t* data, size_t bytes) {
  using Vector = uint64_t __attribute__((vector_size(16)));
  const Vector* words = reinterpret_cast<const Vector*>(data);
  Vector a{}, b{}, c{}, d{};
  for (size_t i = 0; i + 4 <= bytes / sizeof(Vector); i += 4) {
    a ^= words[i];
    b ^= words[i + 1];
    c ^= words[i + 2];
    d ^= words[i + 3];
  }
  const Vector all = a ^ b ^ c ^ d;
  return all[0] ^ all[1];
}

class Step {
 public:
  Step(const LinearProbeOptions& options, int64_t max_tokens)
      : options_(options), pool_(options.threads), weights_(weight_bytes(options)) {
    fill_weights();
    const int64_t C = options.width;
    const std::array<int64_t, 3> columns = {C, C, 4 * C};  // h, a, gelu
    for (size_t i = 0; i < columns.size(); ++i) {
      x_[i].resize(static_cast<size_t>(max_tokens * columns[i]));
      fill_floats(x_[i], i);
      rounded_.push_back(
          std::make_unique<HugeBuffer>(linear_rounded_bytes(columns[i], max_tokens)));
    }
    qkv_.resize(static_cast<size_t>(max_tokens * 3 * C));
    gelu_.resize(static_cast<size_t>(max_tokens * 4 * C));
    attention_.resize(static_cast<size_t>(max_tokens * C));
    mlp_.resize(static_cast<size_t>(max_tokens * C));
  }

  static LinearShape shape(const LinearProbeOptions& o, int64_t rows, int64_t columns) {
    return {o.kind, rows, columns, o.group_size, o.symmetric};
  }
  static std::array<LinearShape, 4> shapes(const LinearProbeOptions& o) {
    const int64_t C = o.width;
    return {shape(o, 3 * C, C), shape(o, 4 * C, C), shape(o, C, C), shape(o, C, 4 * C)};
  }
  static size_t weight_bytes(const LinearProbeOptions& o) {
    int64_t bytes = 0;
    for (const LinearShape& s : shapes(o)) bytes += s.packed_bytes();
    return static_cast<size_t>(o.layers * bytes);
  }

  int64_t bytes() const { return options_.window * layer_bytes(); }

  double operations(int64_t tokens) const {
    double weights = 0;
    for (const LinearShape& s : shapes(options_))
      weights += static_cast<double>(s.rows * s.columns);
    return 2.0 * static_cast<double>(tokens * options_.window) * weights;
  }

  // Seconds of one window.
  double run(int64_t tokens) {
    next_window();
    const auto start = Clock::now();
    pool_.run_phases(4 * options_.window,
                     [this, tokens](int phase, int) { this->phase(phase, tokens); });
    return seconds_since(start);
  }

  // Bytes per second of plain reads of one window.
  double read_rate() {
    next_window();
    const uint8_t* const from = layer(0);
    const size_t part = static_cast<size_t>(bytes() / options_.threads / 64 * 64);
    const auto start = Clock::now();
    pool_.run(
        [&](int worker) { sink_ ^= xor_all(from + part * static_cast<size_t>(worker), part); });
    return static_cast<double>(part * static_cast<size_t>(options_.threads)) / seconds_since(start);
  }

 private:
  // Random bits with the exponents of float16 scales tamed: speed does not depend on values, but
  // denormals and NaN could.
  void fill_weights() {
    pool_.parallel_for(
        static_cast<int64_t>(weights_.bytes()) / 64, 4096, [&](int64_t begin, int64_t end) {
          uint64_t state = 0x9e3779b97f4a7c15u * static_cast<uint64_t>(begin + 1);
          for (int64_t i = 8 * begin; i < 8 * end; ++i) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            const uint64_t word = (state & 0x0fff0fff0fff0fffu) | 0x2000200020002000u;
            std::memcpy(weights_.data() + 8 * i, &word, 8);
          }
        });
  }
  static void fill_floats(std::vector<float>& out, size_t seed) {
    uint32_t state = 12345 + static_cast<uint32_t>(seed);
    for (float& x : out) {
      state = state * 1664525 + 1013904223;
      x = static_cast<float>(static_cast<int32_t>(state)) * 0x1p-31f;
    }
  }

  int64_t layer_bytes() const { return static_cast<int64_t>(weights_.bytes()) / options_.layers; }
  const uint8_t* layer(int i) const { return weights_.data() + (first_ + i) * layer_bytes(); }
  void next_window() {
    first_ += options_.window;
    if (first_ + options_.window > options_.layers) first_ = 0;
  }

  LinearInput input(size_t i, int64_t tokens) {
    const int64_t columns = i == 2 ? 4 * options_.width : options_.width;
    return {x_[i].data(), tokens, columns, rounded_[i]->data()};
  }

  void round(const LinearInput& in) {
    const int64_t pieces = linear_round_pieces(in);
    for (int64_t i; (i = pool_.claim(1)) < pieces;) linear_round(in, i, i + 1, options_.isa);
  }

  void phase(int phase, int64_t tokens) {
    const bool rounds = reads_rounded(options_.kind);
    if (phase % 2 == 0) {
      if (!rounds) return;
      const LinearInput in = input(phase % 4 == 0 ? 0 : 1, tokens);
      return round(in);
    }
    const std::array<LinearShape, 4> all = shapes(options_);
    const uint8_t* at = layer(phase / 4);
    std::array<LinearTask, 2> tasks;
    if (phase % 4 == 1) {
      tasks[0] = {{all[0], at, nullptr, Activation::kNone}, input(0, tokens), {qkv_.data()}};
      tasks[1] = {{all[1], at + all[0].packed_bytes(), nullptr, Activation::kGeluTanh},
                  input(0, tokens),
                  {gelu_.data(), rounds ? rounded_[2]->data() : nullptr}};
    } else {
      at += all[0].packed_bytes() + all[1].packed_bytes();
      tasks[0] = {{all[3], at + all[2].packed_bytes(), nullptr, Activation::kNone},
                  input(2, tokens),
                  {mlp_.data()}};
      tasks[1] = {{all[2], at, nullptr, Activation::kNone}, input(1, tokens), {attention_.data()}};
    }
    // Pairs, too, where they are tiles of the next product.
    const int64_t blocks = linear_row_blocks(tasks), least = tokens > 4 || rounds ? 2 : 1;
    while (true) {
      const RowRange rows = claim_rows(pool_.claim(1), blocks, pool_.threads(), least);
      if (rows.empty()) return;
      linear_rows(tasks, rows.begin, rows.end, options_.isa);
    }
  }

  const LinearProbeOptions& options_;
  int first_ = 0;  // layer of the window
  ThreadPool pool_;
  HugeBuffer weights_;
  std::array<std::vector<float>, 3> x_;
  std::vector<std::unique_ptr<HugeBuffer>> rounded_;
  std::vector<float> qkv_, gelu_, attention_, mlp_;
  std::atomic<uint64_t> sink_{0};  // keeps the compiler from dropping the reads
};

}  // namespace

std::vector<LinearProbeRound> linear_probe(const LinearProbeOptions& options) {
  for (const LinearShape& shape : Step::shapes(options)) {
    if (const char* why = linear_shape_why_not(shape)) {
      throw InvalidArgument(concat("linear_probe of width ", options.width, ": ", why));
    }
  }
  if (options.tokens.empty() ||
      *std::min_element(options.tokens.begin(), options.tokens.end()) < 1 || options.rounds < 1 ||
      options.window < 1 || options.layers < options.window) {
    throw InvalidArgument(
        "linear_probe: tokens, rounds and window are 1 or more, layers as many as the window or "
        "more");
  }
  Step step(options, *std::max_element(options.tokens.begin(), options.tokens.end()));
  std::vector<LinearProbeRound> out;
  step.read_rate();
  for (int64_t tokens : options.tokens) step.run(tokens);
  double before = step.read_rate();
  for (int round = 0; round < options.rounds; ++round) {
    for (const int64_t tokens : options.tokens) {
      const double seconds = step.run(tokens), after = step.read_rate();
      out.push_back({tokens, seconds, before, after, step.bytes(), step.operations(tokens)});
      before = after;
    }
  }
  return out;
}

}  // namespace tgv::cpu
