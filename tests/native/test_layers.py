"""tools/check_layers.py: the repository keeps its order, and a violation of each kind is found."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def layers(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_layers", repository / "tools" / "check_layers.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small repository that keeps the order."""
    files = {
        "docs/architecture.md": "errors → ops → reference, engine → cli\n\n`base → kernels → bindings`\n",
        "python/tinygptv_fast/__init__.py": "from . import cli\n",
        "python/tinygptv_fast/errors.py": "",
        "python/tinygptv_fast/ops.py": "from .errors import X\n",
        "python/tinygptv_fast/reference/__init__.py": "from .model import M\n",
        "python/tinygptv_fast/reference/model.py": "from ..errors import X\nfrom .other import Y\n",
        "python/tinygptv_fast/engine.py": "import tinygptv_fast.ops\n",
        "python/tinygptv_fast/cli.py": "from tinygptv_fast import engine\n",
        "csrc/base/a.h": "",
        "csrc/kernels/k.cc": '#include "base/a.h"\n#include "k.h"\n#include <vector>\n',
        "csrc/kernels/k.h": "",
        "csrc/tests/t.cc": '#include "simt/s.h"\n#include "kernels/k.h"\n',
        "csrc/simt/s.h": '#include "base/a.h"\n',
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path


def test_this_repository_keeps_its_order(layers: ModuleType, repository: Path) -> None:
    assert layers.check(repository) == []


def test_a_good_tree_passes(layers: ModuleType, tree: Path) -> None:
    assert layers.check(tree) == []


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("python/tinygptv_fast/errors.py", "from .ops import y\n", "'errors' imports 'ops'"),
        ("python/tinygptv_fast/ops.py", "def f():\n    from tinygptv_fast.cli import g\n", "'ops' imports 'cli'"),
        ("python/tinygptv_fast/ops.py", "import tinygptv_fast.cli as c\n", "'ops' imports 'cli'"),
        ("python/tinygptv_fast/ops.py", "from . import cli\n", "'ops' imports 'cli'"),
        ("python/tinygptv_fast/reference/model.py", "from ..ops import y\n", "'reference' must not import 'ops'"),
        ("python/tinygptv_fast/reference/model.py", "from .. import cli\n", "'reference' imports 'cli'"),
        ("python/tinygptv_fast/engine.py", "from .reference import M\n", "'engine' must not import 'reference'"),
        ("python/tinygptv_fast/new.py", "from .errors import X\n", "'new' has no place"),
        ("csrc/base/b.cc", '#include "kernels/k.h"\n', "'base' imports 'kernels'"),
        ("csrc/kernels/x.cu", '# include "simt/s.h"\n', "'kernels' imports 'simt'"),
        ("csrc/other/x.h", '#include "base/a.h"\n', "'other' has no place"),
    ],
)
def test_a_violation_is_found(layers: ModuleType, tree: Path, file: str, text: str, message: str) -> None:
    (tree / file).parent.mkdir(parents=True, exist_ok=True)
    (tree / file).write_text(text, encoding="utf-8")
    found = layers.check(tree)
    assert len(found) == 1
    assert message in found[0]
    assert file.split("/", 1)[1] in found[0]


def test_type_checking_imports_do_not_count(layers: ModuleType, tree: Path) -> None:
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .cli import g\n"
    (tree / "python/tinygptv_fast/errors.py").write_text(text, encoding="utf-8")
    assert layers.check(tree) == []


def test_a_document_without_the_order_is_an_error(layers: ModuleType, tree: Path) -> None:
    (tree / "docs/architecture.md").write_text("nothing\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="no line that starts with 'errors'"):
        layers.check(tree)
