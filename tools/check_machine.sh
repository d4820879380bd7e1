#!/bin/sh
# Says in one line what this machine lacks for a build, and exits 1; silent when it lacks nothing.
# usage: tools/check_machine.sh <python> <c++ compiler>
# POSIX shell and old-Python syntax on purpose: it has to run where nothing is set up yet.
python=$1
cxx=$2

lacks() {
  echo "tinygptv_fast: $*" >&2
  exit 1
}

command -v "$python" >/dev/null 2>&1 || lacks "no '$python' found; install Python 3.10 or newer, or set PYTHON=<path>"
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) ||
  lacks "'$python' does not run; install Python 3.10 or newer, or set PYTHON=<path>"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
  lacks "'$python' is Python $version; Python 3.10 or newer is needed (set PYTHON=<path> to choose one)"
"$python" -c 'import venv, ensurepip' >/dev/null 2>&1 ||
  lacks "'$python' has no venv module (Debian and Ubuntu: apt install python3-venv)"
"$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))' ||
  lacks "'$python' has no Python.h header (Debian and Ubuntu: apt install python3-dev)"
command -v "$cxx" >/dev/null 2>&1 ||
  lacks "no C++ compiler '$cxx' found; install g++ 12 or newer, or set CXX=<path>"
echo 'int main() { return [] { return 0; }(); }' | "$cxx" -std=c++20 -x c++ -fsyntax-only - >/dev/null 2>&1 ||
  lacks "the C++ compiler '$cxx' does not accept C++20; install g++ 12 or newer, or set CXX=<path>"
