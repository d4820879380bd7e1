# tgv_add_isa_sources(<target> <isa> <file>...)
#
# Compiles <file>... (paths from the calling CMakeLists.txt) into <target> with the flags of <isa>; the rest of the
# target stays portable, and the file is only entered after base/cpu_features.h has said that the CPU has the ISA.
#
# A file compiled with wider instructions must keep everything in internal linkage (an anonymous namespace) but its
# entry points: a weak symbol (an inline function, a template of the standard library) in it could be the copy that the
# linker keeps for *everybody*, and then crash an older CPU. tests/native/test_symbols.py runs nm over the objects.
set(TGV_ISA_FLAGS_avx2 -mavx2 -mfma -mf16c)
set(TGV_ISA_FLAGS_avxvnni ${TGV_ISA_FLAGS_avx2} -mavxvnni)
set(TGV_ISA_FLAGS_avx512 ${TGV_ISA_FLAGS_avx2} -mavx512f -mavx512bw -mavx512vl -mavx512dq)
set(TGV_ISA_FLAGS_avx512vnni ${TGV_ISA_FLAGS_avx512} -mavx512vnni)
set(TGV_ISA_FLAGS_avx512bf16 ${TGV_ISA_FLAGS_avx512vnni} -mavx512bf16)
set(TGV_ISA_FLAGS_amx ${TGV_ISA_FLAGS_avx512bf16} -mamx-tile -mamx-int8 -mamx-bf16)

function(tgv_add_isa_sources target isa)
  if(NOT DEFINED TGV_ISA_FLAGS_${isa})
    message(FATAL_ERROR "tgv_add_isa_sources: isa is '${isa}', expected avx2, avxvnni, avx512, avx512vnni, avx512bf16 or amx")
  endif()
  # An object library per (target, isa) lets the nm test find the objects: build/.../tgv_isa_<isa>_<target>.dir
  set(objects tgv_isa_${isa}_${target})
  if(NOT TARGET ${objects})
    add_library(${objects} OBJECT)
    target_link_libraries(${objects} PRIVATE tgv_flags)
    target_include_directories(${objects} PRIVATE ${PROJECT_SOURCE_DIR}/csrc)
    target_compile_options(${objects} PRIVATE ${TGV_ISA_FLAGS_${isa}})
    target_sources(${target} PRIVATE $<TARGET_OBJECTS:${objects}>)
  endif()
  list(TRANSFORM ARGN PREPEND ${CMAKE_CURRENT_SOURCE_DIR}/)
  target_sources(${objects} PRIVATE ${ARGN})
endfunction()
