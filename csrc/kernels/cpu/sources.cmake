# Sources of kernels/cpu. A new op adds its lines here (docs/adding_an_op.md):
#   target_sources(tgv_kernels PRIVATE ${CMAKE_CURRENT_LIST_DIR}/<op>.cc)
#   tgv_add_isa_sources(tgv_kernels avx2 cpu/avx2/<op>.cc)

# -Wno-psabi: a vector type never crosses a call that is not inlined, so how one would be passed does not matter.
set(quantize_int4_files quantize_int4.cc avx2/quantize_int4.cc avx512/quantize_int4.cc)
list(TRANSFORM quantize_int4_files PREPEND ${CMAKE_CURRENT_LIST_DIR}/)
set_source_files_properties(${quantize_int4_files} PROPERTIES COMPILE_OPTIONS -Wno-psabi)
target_sources(tgv_kernels PRIVATE ${CMAKE_CURRENT_LIST_DIR}/quantize_int4.cc ${CMAKE_CURRENT_LIST_DIR}/int4_matmul.cc)
target_sources(tgv_kernels PRIVATE ${CMAKE_CURRENT_LIST_DIR}/paged_attention.cc ${CMAKE_CURRENT_LIST_DIR}/qkv_append.cc)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$")
  tgv_add_isa_sources(tgv_kernels avx2 cpu/avx2/quantize_int4.cc cpu/avx2/int4_matmul.cc)
  tgv_add_isa_sources(tgv_kernels avx2 cpu/avx2/paged_attention.cc cpu/avx2/qkv_append.cc)
  tgv_add_isa_sources(tgv_kernels avx512 cpu/avx512/paged_attention.cc cpu/avx512/qkv_append.cc)
  # GCC's own header makes undefined vectors of themselves (__m512 __Y = __Y) and warns about it.
  set(avx512_files paged_attention.cc qkv_append.cc)
  list(TRANSFORM avx512_files PREPEND ${CMAKE_CURRENT_LIST_DIR}/avx512/)
  set_source_files_properties(${avx512_files} PROPERTIES COMPILE_OPTIONS "-Wno-maybe-uninitialized;-Wno-uninitialized")
  tgv_add_isa_sources(tgv_kernels avxvnni cpu/avxvnni/int4_matmul.cc)
  tgv_add_isa_sources(tgv_kernels avx512 cpu/avx512/quantize_int4.cc)
  tgv_add_isa_sources(tgv_kernels avx512vnni cpu/avx512vnni/int4_matmul.cc)
endif()

# Instrumented and at -O3, the unrolled bodies of attention take minutes to compile.
if(TINYGPTV_SANITIZE)
  set_property(SOURCE ${CMAKE_CURRENT_LIST_DIR}/paged_attention.cc ${CMAKE_CURRENT_LIST_DIR}/avx2/paged_attention.cc
                      ${CMAKE_CURRENT_LIST_DIR}/avx512/paged_attention.cc APPEND PROPERTY COMPILE_OPTIONS -O1)
endif()
