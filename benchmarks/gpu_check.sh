#!/bin/sh
# Everything a machine with a GPU has to do, in one call of less than ten minutes and with no network.
#
#   benchmarks/gpu_check.sh [--only build|test|check|bench|e2e] [--out DIR]
#
# Results go to DIR/<gpu>.json (benchmarks/results by default) after each section. PYTHON chooses the interpreter.
cd "$(dirname "$0")/.." || exit 1
exec "${PYTHON:-python3}" benchmarks/gpu_check.py "$@"
