"""Records that cannot be learnt from: each is counted with file and place, none passes, and too many are one error."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import reader_samples as samples
from tinygptv_fast.checkpoint import safe_pickle
from tinygptv_fast.data.readers import DataSet, Reason, faults, open_set, read_sets
from tinygptv_fast.data.readers.faults import BadRecord, Faults
from tinygptv_fast.data.readers.record import Record
from tinygptv_fast.data.readers.walking import decode_all
from tinygptv_fast.errors import ConfigError, DataError
from tinygptv_fast.processing.boxes import parse_boxes
from tinygptv_fast.processing.templates import RESERVED

Change = Callable[[list[Any]], Any]


def opened(folder: Path, config: dict[str, Any], max_bad: float = 100, **more: Any) -> DataSet:
    return open_set(read_sets({"root": str(folder), "max_bad": max_bad, "sets": {"it": {**config, **more}}}, folder)[0])


def reasons(data: DataSet) -> dict[Reason, int]:
    return dict(data.faults.counts)


def changed(folder: Path, config: dict[str, Any], key: str, change: Callable[[Any], Any]) -> None:
    """Change the json that ``config[key]`` names."""
    path = folder / config[key]
    data = json.loads(path.read_text(encoding="utf-8"))
    samples.write(path, change(data) or data)


def vqa_with(folder: Path, change: Callable[[Any], Any], key: str = "annotations") -> DataSet:
    """VQAv2 of two records, the first changed."""
    config = samples.vqav2(folder)
    changed(folder, config, key, lambda data: change(data[key][0]))
    return opened(folder, config)


# --- one bad record among good ones ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("reason", "change"),
    [
        (Reason.EMPTY, lambda a: a.update(answers=[{"answer": ""}])),
        (Reason.EMPTY, lambda a: a.update(answers=[])),
        (Reason.EMPTY, lambda a: a.update(answers=[{"answer": "..."}, {"answer": " \n"}])),  # nothing after clean-up
        (Reason.MALFORMED, lambda a: a.update(answers=[{"answer": 7}])),
        (Reason.MALFORMED, lambda a: a.update(answers="red")),
        (Reason.MALFORMED, lambda a: a.__delitem__("question_id")),
        (Reason.MALFORMED, lambda a: a.update(question_id=424242)),  # no such question
        (Reason.MALFORMED, lambda a: a.update(question_id=[1])),
        (Reason.MALFORMED, lambda a: a.update(image_id=10)),  # the question is about picture 9
        (Reason.MALFORMED, lambda a: a.update(answers=[{"answer": "\ud800"}])),  # a lone surrogate
        (Reason.TOO_LARGE, lambda a: a.update(answers=[{"answer": "x" * 20_001}])),
    ],
)
def test_a_bad_annotation_is_counted_and_the_others_stay(tmp_path: Path, reason: Reason, change: Change) -> None:
    data = vqa_with(tmp_path, change)
    assert reasons(data) == {reason: 1} and len(data.records) == 1
    assert data.faults.first[0].startswith(f"{tmp_path / 'v2_mscoco_train2014_annotations.json'}: record 0")


@pytest.mark.parametrize("text", ["<ImageHere>", "see </Img>", "an <Img>", "one ### two"])
def test_marks_of_the_templates_are_refused_and_the_clean_up_takes_their_meaning(tmp_path: Path, text: str) -> None:
    config = samples.vqav2(tmp_path, [[text], ["fine"]])
    data = opened(tmp_path, config, clean=False)
    assert reasons(data) == {Reason.RESERVED: 1} and len(data.records) == 1
    assert not opened(tmp_path, config).faults.bad  # in lower case and without #


@pytest.mark.parametrize("question", ["", "  ", "?" * 20_001])
def test_a_bad_question_takes_its_record_with_it(tmp_path: Path, question: str) -> None:
    assert len(vqa_with(tmp_path, lambda q: q.update(question=question), "questions").records) == 1


def test_a_record_that_is_no_object_and_one_twice(tmp_path: Path) -> None:
    config = samples.vqav2(tmp_path)
    changed(tmp_path, config, "annotations", lambda d: d["annotations"].extend([7, None, d["annotations"][0]]))
    data = opened(tmp_path, config)
    assert reasons(data) == {Reason.MALFORMED: 2, Reason.DUPLICATE: 1} and len(data.records) == 2
    assert "question_id 9000 is that of an earlier record" in data.faults.first[2]


def test_questions_twice(tmp_path: Path) -> None:
    config = samples.vqav2(tmp_path)
    changed(tmp_path, config, "questions", lambda d: d["questions"].append(d["questions"][1]))
    data = opened(tmp_path, config)
    assert reasons(data) == {Reason.DUPLICATE: 1} and len(data.records) == 2


@pytest.mark.parametrize("make", [samples.gqa, samples.ocrvqa])
def test_a_key_twice_in_an_object_of_records(tmp_path: Path, make: Any) -> None:
    config = make(tmp_path)
    path = tmp_path / config["annotations"]
    text = path.read_text(encoding="utf-8")
    path.write_text(text[:-1] + ", " + text[1:], encoding="utf-8")  # every record once more, under the same keys
    data = opened(tmp_path, config)
    assert reasons(data)[Reason.DUPLICATE] >= 1 and "twice" in data.faults.first[0]


def test_unicode_survives(tmp_path: Path) -> None:
    said = "Ein grüner Löwe, 緑のライオン 🦁"
    data = vqa_with(tmp_path, lambda a: a.update(answers=[{"answer": said}]))
    assert data.records[0].asks[0].answers == ("ein grüner löwe, 緑のライオン 🦁",)


# --- pictures ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("reason", "content"),
    [
        (Reason.NO_PICTURE, None),
        (Reason.BAD_PICTURE, b""),
        (Reason.BAD_PICTURE, b"<html>404 Not Found</html>"),
        (Reason.BAD_PICTURE, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),  # would run Ghostscript
        (Reason.BAD_PICTURE, b"P6 99999 99999 255\n"),  # ten thousand million pixels
    ],
)
def test_a_picture_that_is_missing_or_none(tmp_path: Path, reason: Reason, content: bytes | None) -> None:
    config = samples.vqav2(tmp_path)
    path = tmp_path / "coco" / "COCO_train2014_000000000009.jpg"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert reasons(opened(tmp_path, config)) == {reason: 1}


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/passwd", "a\\b.jpg", "", "x\0.jpg"])
def test_a_name_that_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    config = samples.llava(tmp_path)
    samples.picture(tmp_path / "secret.jpg")
    rows = json.loads((tmp_path / config["annotations"]).read_text())
    samples.write(
        tmp_path / config["annotations"],
        [rows[0] | {"image": name}, rows[0] | {"image": "COCO_train2014_000000000009.jpg"}],
    )
    data = opened(tmp_path, config, image_name="")
    assert reasons(data) == {Reason.MALFORMED: 1} and "inside the pictures' folder" in data.faults.first[0]


def test_damage_behind_the_header_is_found_by_decoding(tmp_path: Path) -> None:
    config = samples.vqav2(tmp_path)
    path = tmp_path / "coco" / "COCO_train2014_000000000010.jpg"
    path.write_bytes(samples.picture_bytes((400, 300))[:-500])
    data = opened(tmp_path, config)
    assert not data.faults.bad
    decode_all(data)
    assert reasons(data) == {Reason.BAD_PICTURE: 1} and "record 1" in data.faults.first[0]


def test_a_turned_picture_has_no_boxes_but_may_be_asked_about(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    config = samples.refcoco(tmp_path)
    samples.picture(tmp_path / "coco" / "COCO_train2014_000000000009.jpg", exif=exif)
    with pytest.raises(DataError, match="turned by EXIF"):
        opened(tmp_path, config)
    questions = samples.vqav2(tmp_path / "q")
    samples.picture(tmp_path / "q" / "coco" / "COCO_train2014_000000000009.jpg", exif=exif)
    assert not opened(tmp_path / "q", questions).faults.bad


# --- boxes ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "box",
    [
        [4, 3, 0, 5], [4, 3, -2, 5], [30, 3, 12, 5], [4, 28, 5, 5], [-3, 3, 9, 9], [4, 3, 5], [4, 3, 5, 5, 5],
        [4, 3, 5, "5"], [4, 3, 5, None], [4, 3, 5, True], [4, 3, 5, float("nan")], [4, 3, 1e308, 1e308],
        [10**400, 3, 5, 5], "4 3 5 5",
    ],
)  # fmt: skip
def test_boxes_that_are_none(tmp_path: Path, box: Any) -> None:
    config = samples.refcoco(tmp_path)
    path = tmp_path / "refcoco" / "instances.json"
    data = json.loads(path.read_text())
    data["annotations"][0]["bbox"] = box
    samples.write(path, data)
    with pytest.raises(DataError, match="has no records") as raised:
        opened(tmp_path, config)
    assert "record 0: " in str(raised.value) and "box" in str(raised.value)


@pytest.mark.parametrize(
    "text", ["{<1><2><3>}", "{<1><2><3><400>}", "{<9><2><3><4>}", "{<1><2><3><4", "{<1><2><3><4><5>}", "no box"]
)
def test_box_texts_that_are_none(tmp_path: Path, text: str) -> None:
    config = samples.flickr_object_to_phrase(tmp_path)
    rows = [{"image_id": "1000092795", "phrase": "a dog", "bbox": box} for box in (text, "{<1><2><3><4>}")]
    samples.write(tmp_path / config["annotations"], rows)
    data = opened(tmp_path, config)
    assert data.faults.bad == 1 and len(data.records) == 1


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    x=st.floats(-5, 45), y=st.floats(-5, 35), w=st.floats(-5, 60), h=st.floats(-5, 60),
    size=st.sampled_from([(40, 30), (1, 1), (640, 427)]),
)  # fmt: skip
def test_a_box_is_refused_or_becomes_one_that_parses_near_it(
    x: float, y: float, w: float, h: float, size: tuple[int, int]
) -> None:
    from tinygptv_fast.data.readers.pictures import Picture
    from tinygptv_fast.data.readers.texts import box_text

    try:
        text = box_text((x, y, w, h), Picture(Path("p"), *size), "here")
    except BadRecord as bad:
        assert bad.reason is Reason.BAD_BOX
        return
    boxes = parse_boxes(text, *size)
    assert not boxes.dropped and len(boxes) == 1
    clipped = (max(x, 0), max(y, 0), min(x + w, size[0]), min(y + h, size[1]))
    for value, wanted, side in zip(boxes[0].xyxy, clipped, size * 2, strict=True):
        assert abs(value - wanted) <= side / 100 * 1.0001


# --- files ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not json"), (b'{"annotations": [', "not json"), (b"[" * 100_000, "not json"),
        (b"\xff\xfe{}x", "not json"),
        (b'{"annotations": [1' + b"0" * 5000 + b"]}", "not json"), (b"7", "expected"), (b"{}", "expected"),
        (b'{"annotations": {}}', "expected"), (b'{"annotations": []}', "no records"),
    ],
)  # fmt: skip
def test_files_that_hold_no_records(tmp_path: Path, content: bytes, said: str) -> None:
    config = samples.vqav2(tmp_path)
    path = tmp_path / config["annotations"]
    path.write_bytes(content)
    with pytest.raises(DataError, match=said) as raised:
        opened(tmp_path, config)
    assert str(path) in str(raised.value) or "'it'" in str(raised.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    config = samples.vqav2(tmp_path)
    os.unlink(tmp_path / config["questions"])
    with pytest.raises(DataError, match=r"questions\.json cannot be read: No such file"):
        opened(tmp_path, config)


def test_a_file_of_absurd_size_is_refused_unread(tmp_path: Path) -> None:
    config = samples.textcaps(tmp_path)
    os.truncate(tmp_path / config["annotations"], 5 << 30)  # sparse: takes no room
    with pytest.raises(DataError, match="5368709120 bytes, expected at most"):
        opened(tmp_path, config)


def test_a_line_that_is_no_json(tmp_path: Path) -> None:
    config = samples.unnatural_instructions(tmp_path)
    row = json.dumps(json.loads((tmp_path / config["annotations"]).read_text())[0])
    (tmp_path / "lines.jsonl").write_text(f"{row}\n{row[:40]}\n\n{row}\n")
    data = opened(tmp_path, config, annotations="lines.jsonl")
    assert len(data.records) == 2 and reasons(data) == {Reason.MALFORMED: 1} and "record 1" in data.faults.first[0]


def refs_of(folder: Path, content: bytes) -> dict[str, Any]:
    config = samples.refcoco(folder)
    (folder / "refcoco" / "refs(unc).p").write_bytes(content)
    return config


class _Evil:
    def __reduce__(self) -> Any:
        return (os.system, (f"touch {os.environ['READERS_TEST_MARK']}",))


@pytest.mark.parametrize(
    "content",
    [
        lambda: pickle.dumps([_Evil()]),
        lambda: pickle.dumps([Path("x")]),  # harmless, but no plain data
        lambda: pickle.dumps(samples.refer_data()[0])[:-40],
        lambda: b"cos\nsystem\n(S'true'\ntR.",
        lambda: pickle.dumps({"refs": 1}),
        lambda: b"",
    ],
)
def test_hostile_expressions_run_nothing(
    tmp_path: Path, content: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "ran"
    monkeypatch.setenv("READERS_TEST_MARK", str(mark))
    with pytest.raises(DataError, match=r"refs\(unc\)\.p"):
        opened(tmp_path, refs_of(tmp_path, content()))
    assert not mark.exists()


def test_a_pickle_is_held_to_its_number_of_instructions(tmp_path: Path) -> None:
    from tinygptv_fast.errors import CheckpointError

    data = pickle.dumps(list(range(500)))
    with pytest.raises(CheckpointError, match="more than 100 instructions"):
        safe_pickle.load("x", data, {}, lambda value: None, plain=True, max_opcodes=100)


def test_expressions_of_wrong_types_are_counted(tmp_path: Path) -> None:
    refs = samples.refer_data()[0]
    bad = [refs[0] | {"ref_id": 10 + n} for n in range(4)]
    bad[0]["sentences"] = "left"
    bad[1]["sentences"] = [{"raw": ""}, {"raw": "the one"}]  # one of two is of use
    bad[2]["ann_id"] = 99
    bad[3]["image_id"] = 10
    data = opened(tmp_path, refs_of(tmp_path, pickle.dumps([*refs, *bad, None])))
    assert len(data.records) == 2
    assert reasons(data) == {Reason.MALFORMED: 3, Reason.EMPTY: 1, Reason.NO_PICTURE: 1}


# --- limits -----------------------------------------------------------------------------------------------------------
def many(folder: Path, bad: int, good: int) -> dict[str, Any]:
    return samples.vqav2(folder, [[""]] * bad + [["yes"]] * good)


def test_a_number_and_a_share(tmp_path: Path) -> None:
    config = many(tmp_path, 3, 27)
    for limit in (3, 0.1, 100, 0.5):
        assert opened(tmp_path, config, limit).faults.bad == 3
    for limit in (0, 2, 0.0, 0.09):
        with pytest.raises(DataError, match="data set 'it' has too many bad records") as raised:
            opened(tmp_path, config, limit)
        text = str(raised.value)
        assert (
            "max_bad is" in text and "empty text" in text and "record 0: none of its 1 answers" in text
        ) or "record 0" in text


def test_the_default_is_one_in_a_hundred(tmp_path: Path) -> None:
    config = many(tmp_path, 1, 99)
    data = {"root": str(tmp_path), "sets": {"it": config}}
    assert open_set(read_sets(data, tmp_path)[0]).faults.bad == 1
    config = many(tmp_path, 2, 98)
    with pytest.raises(DataError, match=r"too many bad records of 100, max_bad is 0\.01; 2 left out: 2 empty text"):
        open_set(read_sets(data, tmp_path)[0])


@pytest.mark.parametrize("value", [-1, 1.0, 1.5, "1%", None, True, float("nan")])
def test_limits_that_are_none(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"data\.max_bad is"):
        read_sets({"max_bad": value, "sets": {"it": {"format": "gqa", "annotations": "a", "images": "b"}}}, Path("."))


def test_the_first_are_told_one_by_one_and_the_rest_is_counted() -> None:
    lines: list[str] = []
    found = Faults("it", 1000, lines.append)
    for number in range(50):
        found.add(BadRecord(Reason.EMPTY, f"file: record {number}", "its answer is empty"))
    assert len(lines) == faults._SHOWN + 1 and lines[3] == "it: left out: file: record 3: its answer is empty"
    assert found.bad == 50 and len(found.first) == 5 and "counted but not shown" in lines[-1]


# --- anything at all --------------------------------------------------------------------------------------------------
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@settings(max_examples=60, deadline=None)
@given(value=_JSON, data=st.data())
def test_whatever_a_field_holds_the_record_is_good_or_counted(bench: Path, value: Any, data: st.DataObject) -> None:
    """Any field of any json format with anything in it: never another error, and what passes is fit for a row."""
    name = data.draw(st.sampled_from(["textcaps", "lavis_vqa", "aokvqa", "ocrvqa", "llava", "flickr_grounded_caption"]))
    config = samples.ALL[name](bench / name)
    path = bench / name / config["annotations"]
    content = json.loads(path.read_text(encoding="utf-8"))
    record = next(iter(content.values())) if isinstance(content, dict) and name != "textcaps" else content
    record = content["data"][0] if name == "textcaps" else record[0] if isinstance(record, list) else record
    record[data.draw(st.sampled_from(sorted(record)))] = value
    path.write_text(json.dumps(content), encoding="utf-8")
    try:
        found = opened(bench / name, config)
    except DataError as error:
        assert "has no records" in str(error)
        return
    assert all(fit(found.records[index]) for index in range(len(found.records)))


def fit(record: Record) -> bool:
    texts = [text for ask in record.asks for text in (*ask.answers, *ask.fills)]
    return bool(record.asks) and all(not any(mark in text for mark in RESERVED) for text in texts)
