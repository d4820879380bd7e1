"""One question about very many pictures, on one machine or a cluster, with Ray Data (pip install tinygptv_fast[ray]).

Pictures are cut into shards. A pool of actors, each with the model loaded once, works through them; a shard's answers
appear as part-NNNNN.jsonl in one piece or not at all. The same command goes on with the parts that are missing. A
picture that cannot be read is a line with "error".

Run: python examples/ray_caption.py 'pictures/*.jpg' --out captions
     python examples/ray_caption.py /data/pictures --out /data/captions --address auto --actors 32
On a cluster, pictures and --out are paths that every machine sees.
"""

from __future__ import annotations

import argparse
import glob
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tinygptv_fast as tgv
from tinygptv_fast.errors import ImageError, InvalidArgumentError, TinyGPTVError, UnsupportedError

KINDS = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
RUN_FILE = "run.json"


def find(words: Sequence[str]) -> list[str]:
    """The pictures of folders, patterns and files, absolute and in order of name."""
    names: set[str] = set()
    for word in words:
        path = Path(word)
        if path.is_dir():
            found = [p for p in path.rglob("*") if p.suffix.lower() in KINDS]
        else:
            found = [path] if path.is_file() else [Path(name) for name in glob.glob(word, recursive=True)]
        if not found:
            raise InvalidArgumentError(f"pictures is {word!r}, where there is none")
        names |= {str(p.absolute()) for p in found}
    return sorted(names)


def write(path: Path, text: str) -> None:
    """The whole file or none: written beside its place, flushed, renamed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def part_of(out: Path, shard: int) -> Path:
    return out / f"part-{shard:05}.jsonl"


class Actor:
    """One process of the pool: the model, loaded once, and shards to work through."""

    def __init__(self, model: str, prompt: str, settings: dict[str, Any], out: str, threads: int) -> None:
        self.model = tgv.TinyGPTV.from_pretrained(model, threads=threads)
        self.prompt, self.settings, self.out = prompt, settings, Path(out)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Answer one shard; a shard that is tried again (a machine was lost) is written again."""
        images = [str(image) for image in row["images"]]
        requests = [{"image": image, "prompt": self.prompt, **self.settings} for image in images]
        answers = self.model.generate_batch(requests, on_error="return")
        for answer in answers:
            # Not the picture's fault: the prompt or a setting, which is wrong for every picture.
            if isinstance(answer, Exception) and not isinstance(answer, (ImageError, OSError)):
                return {"fatal": str(answer), "pictures": 0, "failed": 0}
        lines = [self._line(image, answer) for image, answer in zip(images, answers, strict=True)]
        write(part_of(self.out, int(row["shard"])), "".join(json.dumps(line) + "\n" for line in lines))
        return {"fatal": "", "pictures": len(lines), "failed": sum("error" in line for line in lines)}

    def _line(self, image: str, answer: Any) -> dict[str, Any]:
        head = {"image": image, "model": self.model.info["model_id"]}
        return {**head, **({"error": str(answer)} if isinstance(answer, Exception) else answer.to_dict())}


def check_out(out: Path, run: dict[str, Any]) -> None:
    """Leave what is run in ``out``, or see that it is what was begun there."""
    path = out / RUN_FILE
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        write(path, json.dumps(run, indent=1) + "\n")
        return
    there = json.loads(path.read_text(encoding="utf-8"))
    different = [name for name, value in run.items() if there.get(name) != value]
    if different:
        raise InvalidArgumentError(f"--out {out} holds a run with another {', '.join(different)}; expected a new one")


def work(options: argparse.Namespace, shards: dict[int, list[str]], settings: dict[str, Any]) -> tuple[int, int]:
    """Run the missing shards; how many pictures were asked about, and how many could not be read."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise UnsupportedError("this needs Ray Data: pip install 'tinygptv_fast[ray]'") from None
    from rich.progress import track

    alone: dict[str, Any] = {"num_cpus": options.actors * options.threads, "object_store_memory": 100_000_000}
    ray.init(
        address=options.address, include_dashboard=False, logging_level="WARNING", **({} if options.address else alone)
    )
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        answered = ray.data.from_items([{"shard": n, "images": names} for n, names in shards.items()]).map(
            Actor,
            fn_constructor_args=(options.model, options.prompt, settings, str(options.out.absolute()), options.threads),
            compute=ray.data.ActorPoolStrategy(size=options.actors),
            num_cpus=options.threads,
        )
        asked = failed = 0
        for row in track(
            answered.iter_rows(), description="shards", total=len(shards), disable=not sys.stderr.isatty()
        ):
            if row["fatal"]:
                raise InvalidArgumentError(str(row["fatal"]))
            asked, failed = asked + row["pictures"], failed + row["failed"]
        return asked, failed
    finally:
        ray.shutdown()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="+", help="folders, patterns or files")
    parser.add_argument("--out", type=Path, required=True, help="folder of the answers")
    parser.add_argument("--model", default="demo", help="'demo', a directory or a hub id (demo)")
    parser.add_argument("--prompt", default="Describe this picture.", help="what is asked about each picture")
    parser.add_argument("--task", default="caption", help="a task's tag, as in generate(task=...) (caption)")
    parser.add_argument("--max-new-tokens", type=int, default=64, help="longest answer in tokens (64)")
    parser.add_argument("--shard-size", type=int, default=256, help="pictures a shard: what is lost at most (256)")
    parser.add_argument("--actors", type=int, default=1, help="processes with a model each (1)")
    parser.add_argument("--threads", type=int, default=1, help="threads of each (1)")
    parser.add_argument("--address", default=None, help="of a running cluster, 'auto' for the one of this machine")
    options = parser.parse_args(arguments)
    for name in ("shard_size", "actors", "threads", "max_new_tokens"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} is {getattr(options, name)}, expected an integer >= 1")
    try:
        names = find(options.pictures)
        settings = {"task": options.task, "max_new_tokens": options.max_new_tokens}
        digest = hashlib.sha256("\n".join(names).encode()).hexdigest()
        run = {"model": options.model, "prompt": options.prompt, **settings, "shard_size": options.shard_size}
        check_out(options.out, {**run, "pictures": digest})
        cuts = range(0, len(names), options.shard_size)
        shards = {n: names[first : first + options.shard_size] for n, first in enumerate(cuts)}
        missing = {n: images for n, images in shards.items() if not part_of(options.out, n).exists()}
        asked, failed = work(options, missing, settings) if missing else (0, 0)
    except (TinyGPTVError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on with the parts that are missing", file=sys.stderr)
        return 130
    print(f"{asked} pictures in {len(missing)} of {len(shards)} parts, {failed} could not be read")
    return 0


if __name__ == "__main__":
    sys.exit(main())
