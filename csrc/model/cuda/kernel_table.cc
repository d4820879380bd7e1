#include "model/cuda/kernel_table.h"

#include "model/cuda/device_limits.h"
#include "model/cuda/guarded.h"
#include "model/cuda/kernels.h"

namespace tgv::model {

namespace {

cuda::Launch launch_of([[maybe_unused]] const CudaCall& call) {
  const DeviceLimits limits = device_limits();
  cuda::Launch out;
  out.blocks = limits.multiprocessors;
  out.shared_bytes_per_block = limits.shared_bytes_per_block;
#if defined(__CUDACC__)
  out.stream = reinterpret_cast<cudaStream_t>(call.stream);
#else
  if (call.stream) throw InvalidArgument("the emulation has no streams of others");
#endif
  return out;
}

template <class Params>
CudaStatus run(const Params* p, const CudaCall* call, CudaError* error) {
  return guarded(error, call->device, [&] { run_kernel(*p, launch_of(*call)); });
}

CudaStatus limits(DeviceLimits* out, const CudaCall* call, CudaError* error) {
  return guarded(error, call->device, [&] { *out = device_limits(); });
}

CudaStatus int4_product(const cuda::Int4GemmParams* p, const CudaCall* call, CudaError* error) {
  return guarded(error, call->device, [&] {
    cuda::Launch launch = launch_of(*call);
    if (!takes_gemv(*p, launch.shared_bytes_per_block)) return run_kernel(*p, launch);
    launch.blocks *= kGemvBlocks;
    run_kernel(gemv_of(*p), launch);
  });
}

}  // namespace

CudaKernelTable kernel_table() {
  CudaKernelTable out = {};
  out.limits = limits;
  out.embedding = run<cuda::EmbeddingParams>;
  out.norm = run<cuda::NormParams>;
  out.int4_product = int4_product;
  out.int8_product = run<cuda::Int8GemmParams>;
  out.half_product = run<cuda::HalfGemmParams>;
  out.float_product = run<cuda::FloatGemmParams>;
  out.qkv_append = run<cuda::QkvAppendParams>;
  out.paged_attention = run<cuda::PagedAttentionParams>;
  out.prefill_attention = run<cuda::PrefillAttentionParams>;
  out.sampling = run<cuda::SamplingParams>;
  return out;
}

}  // namespace tgv::model
