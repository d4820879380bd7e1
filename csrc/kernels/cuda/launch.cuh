// Starts kernels: on a GPU under nvcc, under the emulation on the host. Selection happens here,
// once per problem.
#pragma once

#include "kernels/cuda/advance.cuh"
#include "kernels/cuda/embedding.cuh"
#include "kernels/cuda/float_gemm.cuh"
#include "kernels/cuda/half_gemm.cuh"
#include "kernels/cuda/int4_gemm.cuh"
#include "kernels/cuda/int4_gemv.cuh"
#include "kernels/cuda/int8_gemm.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/norm.cuh"
#include "kernels/cuda/page_copy.cuh"
#include "kernels/cuda/paged_attention.cuh"
#include "kernels/cuda/prefill_attention.cuh"
#include "kernels/cuda/qkv_append.cuh"
#include "kernels/cuda/sampling.cuh"

namespace tgv::cuda {

#if defined(__CUDACC__)
// Loads a kernel that was never launched, which may not happen while a graph is captured: CUDA
// loads lazily, and that can wait for the device.
template <class Kernel>
void make_ready(Kernel kernel, int64_t shared_bytes, bool loads) {
  if (loads) {
    cudaFuncAttributes attributes;
    check(cudaFuncGetAttributes(&attributes, kernel), "loading a kernel");
  }
  if (shared_bytes <= 32 * 1024) return;  // 48 KB without asking, static arrays included
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(shared_bytes)),
        "raising a kernel's shared memory");
}
#endif

template <class... Parameters, class... Arguments>
void start(void (*kernel)(Parameters...), int64_t blocks, int threads, int64_t shared_bytes,
           const Launch& launch, Arguments... arguments) {
  const dim3 grid(static_cast<unsigned>(blocks)), block(static_cast<unsigned>(threads));
  const bool only_loads = launch.state && launch.state->only_loads;
  if (launch.state && !only_loads) ++launch.state->launches;
#if defined(__CUDACC__)
  make_ready(kernel, shared_bytes, only_loads);
  if (only_loads) return;
  cudaLaunchAttribute early = {};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = launch.stream;
  config.attrs = &early;
  config.numAttrs = launch.dependent ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...),
        "a kernel launch");
#else
  if (only_loads) return;
  simt::Stream at_once;
  simt::Stream& stream = launch.stream ? *launch.stream : at_once;
  stream.launch(kernel, grid, block, static_cast<size_t>(shared_bytes), launch.dependent,
                arguments...);
#endif
}

using Int4GemvKernel = void (*)(Int4GemvParams);

template <int kGroup>
Int4GemvKernel choose_int4_gemv(const Int4GemvParams& p) {
  if (p.batch == 1) return p.zeros ? int4_gemv<kGroup, true, true> : int4_gemv<kGroup, true, false>;
  return p.zeros ? int4_gemv<kGroup, false, true> : int4_gemv<kGroup, false, false>;
}

inline void launch_int4_gemv(const Int4GemvParams& p, const Launch& launch) {
  const std::string why_not = int4_gemv_why_not(p, launch.shared_bytes_per_block);
  if (!why_not.empty()) throw InvalidArgument(concat("int4_gemv: ", why_not));
  const Int4GemvKernel kernel = p.group == 32   ? choose_int4_gemv<32>(p)
                                : p.group == 64 ? choose_int4_gemv<64>(p)
                                                : choose_int4_gemv<128>(p);
  const int64_t tiles = int4_gemv_row_tiles(p.n);
  start(kernel, tiles < launch.blocks ? tiles : launch.blocks, kInt4GemvWarps * 32,
        int4_gemv_shared_bytes(p), launch, p);
}

using PagedAttentionKernel = void (*)(PagedAttentionParams, int);

template <int D>
PagedAttentionKernel choose_paged_attention(KvKind kind) {
  switch (kind) {
    case KvKind::kF32:
      return paged_attention_cuts<KvKind::kF32, D>;
    case KvKind::kF16:
      return paged_attention_cuts<KvKind::kF16, D>;
    case KvKind::kBF16:
      return paged_attention_cuts<KvKind::kBF16, D>;
    case KvKind::kI8:
      return paged_attention_cuts<KvKind::kI8, D>;
    case KvKind::kE4M3:
      return paged_attention_cuts<KvKind::kE4M3, D>;
  }
  return nullptr;  // why_not has refused it
}

inline void launch_paged_attention(const PagedAttentionParams& p, const Launch& launch) {
  const std::string why_not = paged_attention_why_not(p);
  if (!why_not.empty()) throw InvalidArgument(concat("paged_attention: ", why_not));
  const int max_cuts = paged_attention_max_cuts(p);
  const int64_t heads = int64_t{p.sequences} * p.heads;
  const auto blocks = [](int64_t warps) { return (warps + kAttentionWarps - 1) / kAttentionWarps; };
  const auto cuts =
      p.head_dim == 80 ? choose_paged_attention<80>(p.kind) : choose_paged_attention<64>(p.kind);
  const auto merge = p.head_dim == 80 ? paged_attention_merge<80> : paged_attention_merge<64>;
  start(cuts, blocks(heads * max_cuts), kAttentionWarps * 32, 0, launch, p, max_cuts);
  start(merge, blocks(heads), kAttentionWarps * 32, 0, launch, p, max_cuts);
}

// --- between the products: norms, the cache, the embedding -------------------------------------
inline void launch_norm(const NormParams& p, const Launch& launch) {
  const std::string why_not = norm_why_not(p);
  if (!why_not.empty()) throw InvalidArgument(concat("norm: ", why_not));
  if (p.width <= 1024) return start(norm_rows<256, 1>, p.rows, 256, 0, launch, p);
  if (p.width <= 3072) return start(norm_rows<256, 3>, p.rows, 256, 0, launch, p);
  start(norm_rows<512, 4>, p.rows, 512, 0, launch, p);
}

template <int kVectors>
void (*choose_qkv_append(KvKind kind))(QkvAppendParams) {
  switch (kind) {
    case KvKind::kF32:
      return qkv_append<KvKind::kF32, kVectors>;
    case KvKind::kF16:
      return qkv_append<KvKind::kF16, kVectors>;
    case KvKind::kBF16:
      return qkv_append<KvKind::kBF16, kVectors>;
    case KvKind::kI8:
      return qkv_append<KvKind::kI8, kVectors>;
    case KvKind::kE4M3:
      return qkv_append<KvKind::kE4M3, kVectors>;
  }
  return nullptr;
}

inline void launch_qkv_append(const QkvAppendParams& p, const Launch& launch) {
  const std::string why_not = qkv_append_why_not(p);
  if (!why_not.empty()) throw InvalidArgument(concat("qkv_append: ", why_not));
  const int64_t rows = int64_t{p.tokens} * p.heads * 3;
  const auto kernel =
      p.head_dim <= 128 ? choose_qkv_append<1>(p.kind) : choose_qkv_append<2>(p.kind);
  start(kernel, (rows + kQkvAppendWarps - 1) / kQkvAppendWarps, kQkvAppendWarps * 32, 0, launch, p);
}

inline void launch_page_copy(const PageCopyParams& p, const Launch& launch) {
  const std::string why_not = page_copy_why_not(p);
  if (!why_not.empty()) throw InvalidArgument(concat("page_copy: ", why_not));
  const int64_t blocks = page_copy_blocks(p);
  start(page_copy<4>, blocks, kPageCopyThreads, 0, launch, p, blocks / p.layers / p.pairs);
}

inline void launch_embedding(const EmbeddingParams& p, const Launch& launch) {
  const std::string why_not = embedding_why_not(p);
  if (!why_not.empty()) throw InvalidArgument(concat("embedding: ", why_not));
  const auto kernel = p.kind == EmbeddingKind::kF32    ? embedding_rows<EmbeddingKind::kF32>
                      : p.kind == EmbeddingKind::kF16  ? embedding_rows<EmbeddingKind::kF16>
                      : p.kind == EmbeddingKind::kBF16 ? embedding_rows<EmbeddingKind::kBF16>
                                                       : embedding_rows<EmbeddingKind::kI8>;
  const int64_t row_blocks = embedding_row_blocks(p);
  start(kernel, p.tokens * row_blocks, kEmbeddingThreads, 0, launch, p,
        static_cast<int>(row_blocks));
}

template <KvKind kKind, int D>
void start_prefill_attention(const PrefillAttentionParams& p, const Launch& launch) {
  constexpr int kShared = PrefillShared<kKind, D>::kBytes;
  static_assert(kShared <= 48 * 1024, "every device has this much");
  const int tiles = (p.max_tokens + kPrefillQueries - 1) / kPrefillQueries;
  start(prefill_attention<kKind, D>, int64_t{tiles} * p.sequences * p.heads, kPrefillThreads,
        kShared, launch, p, tiles);
}

template <int D>
void choose_prefill_attention(const PrefillAttentionParams& p, const Launch& launch) {
  switch (p.kind) {
    case KvKind::kF16:
      return start_prefill_attention<KvKind::kF16, D>(p, launch);
    case KvKind::kBF16:
      return start_prefill_attention<KvKind::kBF16, D>(p, launch);
    case KvKind::kI8:
      return start_prefill_attention<KvKind::kI8, D>(p, launch);
    case KvKind::kE4M3:
      return start_prefill_attention<KvKind::kE4M3, D>(p, launch);
    case KvKind::kF32:
      return;  // why_not has refused it
  }
}

inline void launch_prefill_attention(const PrefillAttentionParams& p, const Launch& launch) {
  const std::string why_not = prefill_attention_why_not(p);
  if (!why_not.empty()) throw InvalidArgument(concat("prefill_attention: ", why_not));
  p.head_dim == 80 ? choose_prefill_attention<80>(p, launch)
                   : choose_prefill_attention<64>(p, launch);
}

// --- matrix products (gemm.cuh) ---

template <int kGroup>
void (*choose_int4_gemm(const Int4GemmParams& p, int tokens))(Int4GemmParams, GemmWork) {
  if (tokens == 64) return p.zeros ? int4_gemm<kGroup, 64, true> : int4_gemm<kGroup, 64, false>;
  return p.zeros ? int4_gemm<kGroup, 128, true> : int4_gemm<kGroup, 128, false>;
}

inline void launch_int4_gemm(const Int4GemmParams& p, const Launch& launch) {
  const std::string why_not = int4_gemm_why_not(p, launch.shared_bytes_per_block, launch.blocks);
  if (!why_not.empty()) throw InvalidArgument(concat("int4_gemm: ", why_not));
  const GemmWork w = int4_gemm_work(p, launch.blocks);
  const auto kernel = p.group == 32   ? choose_int4_gemm<32>(p, w.tokens_per_tile)
                      : p.group == 64 ? choose_int4_gemm<64>(p, w.tokens_per_tile)
                                      : choose_int4_gemm<128>(p, w.tokens_per_tile);
  start(kernel, w.blocks, kGemmThreads, int4_gemm_shared_bytes(p), launch, p, w);
}

template <class Kind>
void (*choose_half_gemm(int tokens))(HalfGemmParams, GemmWork) {
  return tokens == 64 ? half_gemm<Kind, 64> : half_gemm<Kind, 128>;
}

inline void launch_half_gemm(const HalfGemmParams& p, const Launch& launch) {
  const std::string why_not = half_gemm_why_not(p, launch.shared_bytes_per_block, launch.blocks);
  if (!why_not.empty()) throw InvalidArgument(concat("half_gemm: ", why_not));
  const GemmWork w = half_gemm_work(p, launch.blocks);
  const auto kernel = p.bfloat16 ? choose_half_gemm<BFloat16Element>(w.tokens_per_tile)
                                 : choose_half_gemm<HalfElement>(w.tokens_per_tile);
  start(kernel, w.blocks, kGemmThreads, half_gemm_shared_bytes(p), launch, p, w);
}

inline void launch_int8_gemm(const Int8GemmParams& p, const Launch& launch) {
  const std::string why_not = int8_gemm_why_not(p, launch.shared_bytes_per_block, launch.blocks);
  if (!why_not.empty()) throw InvalidArgument(concat("int8_gemm: ", why_not));
  const GemmWork w = int8_gemm_work(p, launch.blocks);
  const auto kernel = w.tokens_per_tile == 64 ? int8_gemm<64> : int8_gemm<128>;
  start(kernel, w.blocks, kGemmThreads, int8_gemm_shared_bytes(p), launch, p, w);
}

inline void launch_float_gemm(const FloatGemmParams& p, const Launch& launch) {
  const std::string why_not = float_gemm_why_not(p, launch.shared_bytes_per_block, launch.blocks);
  if (!why_not.empty()) throw InvalidArgument(concat("float_gemm: ", why_not));
  const GemmWork w = float_gemm_work(p, launch.blocks);
  const auto kernel = w.tokens_per_tile == 16 ? float_gemm<16> : float_gemm<64>;
  start(kernel, w.blocks, kGemmThreads, float_gemm_shared_bytes(p), launch, p, w);
}

// --- the end of a step ---

inline void launch_sampling(const SamplingParams& p, const Launch& launch) {
  const std::string why_not = sampling_why_not(p);
  if (!why_not.empty()) throw InvalidArgument(concat("sampling: ", why_not));
  start(p.top > 0 ? sample_rows<true> : sample_rows<false>, p.sequences, kSamplingThreads, 0,
        launch, p);
}

inline void launch_advance(const AdvanceParams& p, const Launch& launch) {
  const std::string why_not = advance_why_not(p);
  if (!why_not.empty()) throw InvalidArgument(concat("advance: ", why_not));
  start(advance_rows<kAdvanceThreads>, 1, kAdvanceThreads, 0, launch, p);
}

}  // namespace tgv::cuda
