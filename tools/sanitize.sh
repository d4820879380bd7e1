#!/bin/sh
# Builds and runs the C++ tests under ASan+UBSan and TSan (CMakePresets.json). Arguments choose presets.
# CMAKE, CTEST and NINJA name the tools; those on PATH otherwise.
cd "$(dirname "$0")/.." || exit 1
cmake=${CMAKE:-cmake}
ctest=${CTEST:-ctest}
make_program=${NINJA:+-DCMAKE_MAKE_PROGRAM=$NINJA}
[ $# -gt 0 ] || set -- asan-ubsan tsan
for preset in "$@"; do
  echo "== $preset"
  "$cmake" --preset "$preset" $make_program >/dev/null &&
    "$cmake" --build --preset "$preset" &&
    "$ctest" --preset "$preset" || exit 1
done
