// One step of the decoder on a GPU: model::Decoder (decoder.h there), composed of kernels/cuda.
//
// What     New positions of any number of sequences in, K and V into their pages, logits of the
//          rows that want them out; the mathematics is model/decoder.h's.
// Launches Embedding; for each layer: norm, qkv, fc1, append to the cache, attention (of prompts
//          and of single tokens), out, fc2; norm and head. One stream, no host in between. Products
//          of up to 8 rows with int4 weights go through int4_gemv, where x of as many rows as a
//          graph of such a step has (1, 2, 4 or 8) fits a block's shared memory, others through the
//          matrix products: a step is the same bits with padding and without.
// Memory   One block of device memory, sized at construction. A step allocates nothing. What the
//          kernels must know of a step is one struct of fixed addresses (step.h), uploaded in one
//          copy; what launches are told by value follows from its StepShape, so that a captured
//          graph can be replayed for every step of the same shape.
// Modes    f32 weights over f32 pages: exact, f32 throughout. Other forms of weights: f16 where the
//          tensor core reads, f32 sums, residual stream and norms. Any kind of page goes with both.
// Numerics A row's results depend on its own inputs, its pages and the weights, and, unless weights
//          and pages are f32, on which kernels ran: int4_gemv (step of at most 8 rows) and
//          int4_gemm round weights differently, and so do attention of a prompt and of a single
//          token. In the exact mode the bits are the same whatever else is in the step and however
//          a prompt is cut into steps.
// Threads  One step at a time.
//
// C++17: nvcc compiles it.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "model/cuda/device_memory.h"
#include "model/cuda/kernels.h"
#include "model/cuda/sizes.h"
#include "model/cuda/step.h"
#include "model/cuda/storage.h"
#include "model/cuda/weights.h"

namespace tgv::model {

class CudaDecoder {
 public:
  // What a decoder of these would take, on the GPU and pinned on the host. Throws InvalidArgument,
  // SystemError.
  struct Memory {
    size_t arena_bytes = 0, pinned_bytes = 0;
  };
  static Memory memory_for(const Architecture& architecture, const CudaForms& forms,
                           const CudaPageShape& pages, const CudaDecoderOptions& options,
                           size_t front_bytes = 0);

  // The pages' shape must be the model's. Weights and pages outlive the decoder. front_bytes: of
  // the step's inputs, for others (step.h). Throws InvalidArgument (quoting the kernel that cannot
  // take the model), CapacityError, SystemError.
  CudaDecoder(std::shared_ptr<const CudaWeights> weights, const CudaStorage& storage,
              const CudaDecoderOptions& options, size_t front_bytes = 0);
  ~CudaDecoder();

  const Architecture& architecture() const { return architecture_; }
  const CudaDecoderOptions& options() const { return options_; }
  size_t arena_bytes() const { return arena_.bytes(); }
  const DeviceStream& stream() const { return stream_; }

  // Starts a step; what is put on stream() next finds its logits: prepare(), upload(), launch().
  bool start(const DeviceSegment* segments, int64_t count, const std::atomic<bool>* stop = nullptr);

  // Waits for the step before, whose inputs are overwritten, and writes those of this one. Throws
  // InvalidArgument if the step does not fit the options or the model, having written nothing.
  const StepShape& prepare(const DeviceSegment* segments, int64_t count);
  // Adds rows of nobody to the step that was prepared, which must be one of single tokens with a
  // row of logits each: padded_shape(rows) is what is to be launched.
  void pad(int64_t rows) { inputs_.pad(rows); }
  static StepShape padded_shape(int64_t rows);
  // front_bytes at the start of the inputs: what upload() copies from, and to.
  uint8_t* front_host() const { return inputs_.arrays(staging_.data()).front; }
  uint8_t* front_device() const;
  const StepArrays& inputs() const;  // of a step, in device memory
  void upload() const;
  // Puts the kernels of a step of this shape on the stream. `stop` (may be null) is looked at
  // before each layer is started. False: it was set and the step was given up, K, V and logits of
  // its tokens are worthless.
  bool launch(const StepShape& shape, const std::atomic<bool>* stop = nullptr) const;

  // start(), and waits until all of it is done.
  bool step(const DeviceSegment* segments, int64_t count, const std::atomic<bool>* stop = nullptr);

  // [V] of logit row `row` of the last step, in device memory and in the order of the segments;
  // padding is none of them.
  const float* logits(int64_t row) const;
  void read_logits(float* out, int64_t row) const;  // [V] in host memory; waits
  // Rows [first, first + count) to host memory [count, V], there when stream() has been waited for.
  void start_reading(float* out, int64_t first, int64_t count) const;
  const float* all_logits() const;  // [max_logit_rows, V] in device memory, of every step
  int64_t logit_rows() const { return shape_.logit_rows; }

 private:
  struct Layer {
    CudaMatrix qkv, fc1, out, fc2;
    const float *norm_weight, *norm_bias;
    const float *q_weight, *q_bias, *k_weight, *k_bias;  // null without q/k norm
    const float* post_weight;                            // null without the norm after attention
    CudaPages pages;
  };
  struct Buffers;  // of the arena, by name
  struct Product {
    void* y;
    bool y_is_half, gelu;
    const void* x;
    int64_t rows;
  };

  struct Sizes {  // what the arena follows from
    const Architecture& architecture;
    const CudaForms& forms;
    const CudaDecoderOptions& options;  // the device's numbers put in
    cuda::KvKind pages;
    const StepInputs& inputs;
  };
  static Buffers carve(const Sizes& sizes, uint8_t* base);
  Sizes sizes() const;
  void read_layers(const CudaStorage& storage);
  void upload_rotary();
  void check_kernels() const;

  // Problems of a step, complete but for what only launching needs.
  cuda::EmbeddingParams embedding_params(const StepShape& shape) const;
  cuda::NormParams norm_params(int64_t layer, const StepShape& shape) const;
  cuda::NormParams final_norm_params(const StepShape& shape) const;
  cuda::QkvAppendParams append_params(const Layer& layer, const StepShape& shape) const;
  cuda::PagedAttentionParams singles_params(const Layer& layer, int first, int count) const;
  cuda::PrefillAttentionParams prompts_params(const Layer& layer, const StepShape& shape) const;
  template <class Params>
  Params gemm_params(const CudaMatrix& matrix, const Product& product) const;
  void add_branches(cuda::NormParams& p, const Layer& layer) const;
  void set_output(cuda::NormParams& p, void* y, CudaForm form) const;

  void run_layer(int64_t index, const StepShape& shape) const;
  void attend(const Layer& layer, const StepShape& shape) const;
  void run_head(const StepShape& shape) const;
  void multiply(const CudaMatrix& matrix, const Product& product) const;
  bool few_rows(cuda::Int4GemmParams p) const;
  void give_workspace(cuda::GemmProblem& p, const cuda::GemmWork& work) const;
  cuda::Launch on_stream(int blocks) const;

  const std::shared_ptr<const CudaWeights> weights_;
  const Architecture architecture_;
  const CudaDecoderOptions options_;  // the device's numbers put in
  const CudaPageShape page_shape_;
  const CudaForm body_form_, head_form_;
  StepInputs inputs_;
  std::vector<Layer> layers_;
  CudaMatrix head_;
  const float *final_weight_ = nullptr, *final_bias_ = nullptr;
  DeviceStream stream_;
  PinnedMemory staging_;
  DeviceMemory arena_;
  const std::unique_ptr<const Buffers> buffers_;
  StepShape shape_;
};

}  // namespace tgv::model
