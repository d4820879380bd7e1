"""Memory may end at any point of loading: one named error, and the same process loads when there is some again."""

from __future__ import annotations

import json
import subprocess
import sys

# The address space is limited to what the process has plus a little, more and more of it, so that loading fails at one
# allocation after the other. Less than 2 MB more is left out: CPython 3.11 waits for ever for a thread of its own that
# had no memory to begin. Printed: [outcome, message] of each attempt.
_STARVED = """
import gc, json, re, resource
import tinygptv_fast as tgv

def load():
    return tgv.TinyGPTV.from_pretrained("demo", vision=False, threads=2)

def ask(model):
    return model.generate(prompt="what is it", max_new_tokens=4).text

with load() as model:
    expected = ask(model)
unlimited = resource.getrlimit(resource.RLIMIT_AS)
outcomes = []
for room in range(2 << 20, 40 << 20, 1 << 20):
    gc.collect()
    taken = 1024 * int(re.search(r"VmSize:\\s+(\\d+)", open("/proc/self/status").read())[1])
    resource.setrlimit(resource.RLIMIT_AS, (taken + room, unlimited[1]))
    model = None
    try:
        model = load()
        outcomes.append(["loaded", ""])
    except Exception as error:
        outcomes.append([type(error).__name__, str(error)])
    finally:
        resource.setrlimit(resource.RLIMIT_AS, unlimited)
    if model is not None:
        with model:
            assert ask(model) == expected
with load() as model:
    assert ask(model) == expected
print(json.dumps(outcomes))
"""


def test_no_memory_at_any_point_of_loading() -> None:
    done = subprocess.run([sys.executable, "-c", _STARVED], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    outcomes = json.loads(done.stdout)
    kinds = [kind for kind, _ in outcomes]
    assert kinds[0] != "loaded" and kinds[-1] == "loaded"
    assert set(kinds) <= {"loaded", "CheckpointError", "CapacityError", "TinyGPTVError"}
    messages = {message for kind, message in outcomes if kind != "loaded"}
    assert any("no memory for" in message for message in messages)
    assert all("memory" in message or "thread cannot be started" in message for message in messages), messages
