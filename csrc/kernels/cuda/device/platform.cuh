// What device code stands on: the CUDA runtime under nvcc, or the host emulation the build includes
// before anything else. The wrappers of this folder are the only place with PTX; each has its host
// body beside it.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)

#include <cuda_runtime.h>

#define TGV_SHARED(type, name, extents) __shared__ type name extents
#define TGV_DYNAMIC_SHARED(type, name)                                        \
  extern __shared__ __align__(128) unsigned char tgv_dynamic_shared_memory[]; \
  type* name = reinterpret_cast<type*>(tgv_dynamic_shared_memory)
#define TGV_SPIN()

#elif !defined(TGV_SIMT)
#error "compile CUDA sources with nvcc, or for the host with -include csrc/simt/cuda.h"
#endif
