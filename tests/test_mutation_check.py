"""The mutation check itself: it can say yes, it can say no, and its texts are still in the sources."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

TOOL = Path(__file__).parents[1] / "tools" / "mutation_check.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mutation_check", TOOL)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_every_text_is_still_there_exactly_once(tool: ModuleType) -> None:
    names = [mutant.name for mutant in tool.MUTANTS]
    assert len(names) == len(set(names))
    for mutant in tool.MUTANTS:
        tool.check_text(mutant)
        assert mutant.old != mutant.new


def test_a_mistake_is_noticed_and_no_mistake_is_not(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "return self.alpha / self.rank"
    monkeypatch.chdir(TOOL.parents[1])
    harmless = tool.Mutant(
        "harmless", "config.py", text, "return float(self.alpha) / self.rank", "tests/test_config.py"
    )
    harmful = tool.Mutant("harmful", "config.py", text, "return self.alpha", "tests/test_config.py")
    assert tool.run(harmless) == (False, "")
    assert tool.run(harmful) == (True, "test_defaults_are_the_released_model")
