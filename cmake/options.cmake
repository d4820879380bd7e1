# Flags every target gets. Portable: never -march=native; ISA-specific files get theirs in cmake/isa.cmake.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()

set_property(CACHE TINYGPTV_CUDA PROPERTY STRINGS off native all)
if(NOT TINYGPTV_CUDA MATCHES "^(off|native|all)$")
  message(FATAL_ERROR "TINYGPTV_CUDA is '${TINYGPTV_CUDA}', expected off, native or all")
endif()

find_package(Threads REQUIRED)

# Flags of our own code (an interface target, so that pybind11 and the like are not held to our warnings).
# -ffp-contract=off: results must not depend on which products a compiler happens to fuse.
add_library(tgv_flags INTERFACE)
target_compile_options(tgv_flags INTERFACE -Wall -Wextra -ffp-contract=off)
target_link_libraries(tgv_flags INTERFACE Threads::Threads)
if(TINYGPTV_SANITIZE)
  target_compile_options(tgv_flags INTERFACE -fsanitize=${TINYGPTV_SANITIZE} -fno-omit-frame-pointer -g
                                             -fno-sanitize-recover=all)
  target_link_options(tgv_flags INTERFACE -fsanitize=${TINYGPTV_SANITIZE})
endif()
