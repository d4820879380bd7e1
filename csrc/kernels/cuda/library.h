// The C interface of the separately built CUDA library. Plain C types only: the library may be
// compiled by another compiler than the core, and no exception crosses it.
#pragma once

#include <cstdint>

extern "C" {

// Grows by one with every change below; the loader refuses another number.
#define TGV_CUDA_LIBRARY_VERSION 1

typedef struct TgvCudaDevice {
  char name[256];
  int32_t compute_major, compute_minor;
  int32_t multiprocessors;
  int64_t memory_bytes;
  int64_t l2_bytes;
} TgvCudaDevice;

// Functions return 0, or write a sentence to `error` (error_bytes of room, always terminated) and
// return another number.
typedef struct TgvCudaLibrary {
  int32_t version;
  int32_t (*device_count)(int32_t* count, char* error, int64_t error_bytes);
  int32_t (*device)(TgvCudaDevice* out, int32_t index, char* error, int64_t error_bytes);
} TgvCudaLibrary;

// The one symbol the library exports.
typedef const TgvCudaLibrary* (*TgvCudaEntry)(void);
#define TGV_CUDA_ENTRY_NAME "tgv_cuda_library"
}
