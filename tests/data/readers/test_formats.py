"""Each format in small, as it is published: what becomes of its records, to the letter."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import reader_samples as samples
from tinygptv_fast.data.examples import Example
from tinygptv_fast.data.randomness import generator
from tinygptv_fast.data.readers import FORMATS, DataSet, open_set, read_sets
from tinygptv_fast.data.readers.pools import CAPTION
from tinygptv_fast.processing.prompt import TASKS


def opened(folder: Path, settings: dict[str, Any], **more: Any) -> DataSet:
    config = {"root": str(folder), "max_bad": 0, "sets": {"it": {**settings, **more}}}
    return open_set(read_sets(config, Path("/nowhere"))[0])


def draws(data: DataSet, index: int = 0, count: int = 200) -> list[Example]:
    """Many draws of one record."""
    return [data.records[index].example(generator(7, n)) for n in range(count)]


def questions(found: list[Example]) -> set[str | None]:
    return {example.turns[0].question for example in found}


def answers(found: list[Example]) -> set[str]:
    return {example.turns[0].answer for example in found}


def test_every_format_has_a_sample_here() -> None:
    assert set(samples.ALL) == set(FORMATS)


def test_webdataset(tmp_path: Path) -> None:
    data = opened(tmp_path, samples.webdataset(tmp_path))
    assert len(data.records) == 6
    found = draws(data, 4, 3)
    assert questions(found) == {None} and answers(found) == {"a photo no 11 grün"}
    assert found[0].images == (samples.picture_bytes(seed=4),) and found[0].task is None
    assert found[0].where.endswith("00001.tar: record 1")
    plain = opened(tmp_path, samples.webdataset(tmp_path), caption="txt", clean=False)
    assert answers(draws(plain, 4, 1)) == {"A photo No. 11: Grün!"}


def test_cc_sbu_align_keeps_its_captions_and_leaves_the_prompt_to_the_stage(tmp_path: Path) -> None:
    data = opened(tmp_path, samples.cc_sbu_align(tmp_path))
    found = draws(data, 0, 3)
    assert questions(found) == {None} and answers(found) == {"The image shows a Dog (brown)."}
    assert found[0].images == (tmp_path / "align" / "image" / "2.jpg",)


@pytest.mark.parametrize(
    ("make", "said", "records"), [(samples.textcaps, "a stop sign", 2), (samples.coco_captions, "a meal", 1)]
)
def test_captions(tmp_path: Path, make: Any, said: str, records: int) -> None:
    data = opened(tmp_path, make(tmp_path))
    found = draws(data)
    assert len(data.records) == records
    assert questions(found) == set(CAPTION) and answers(found) == {said} and found[0].task == "caption"


@pytest.mark.parametrize("make", [samples.vqav2, samples.okvqa])
def test_vqa_answers_are_drawn_as_often_as_they_were_given(tmp_path: Path, make: Any) -> None:
    data = opened(tmp_path, make(tmp_path))
    found = draws(data, 0, 2000)
    asked = {wording.format("what is no 0?") for wording in TASKS["vqa"].training}
    assert len(data.records) == 2 and questions(found) == asked and found[0].task == "vqa"
    count = Counter(example.turns[0].answer for example in found)
    assert set(count) == {"red", "dark red"} and 1300 < count["red"] < 1500  # 7 of 10, within 4.9 deviations
    assert found[0].turns[0].accepted == ("red", "dark red")
    assert found[0].images == (tmp_path / "coco" / "COCO_train2014_000000000009.jpg",)


def test_texts_stay_as_they_are_when_asked(tmp_path: Path) -> None:
    data = opened(tmp_path, samples.vqav2(tmp_path), clean=False)
    assert "What is No. 0?" in questions(draws(data)) and answers(draws(data)) == {"Red", "dark red"}


def test_lavis_list(tmp_path: Path) -> None:
    found = draws(opened(tmp_path, samples.lavis_vqa(tmp_path)))
    assert answers(found) == {"net", "a net"} and "where? here" in questions(found)  # an empty one of several is none


def test_aokvqa_with_the_names_of_its_authors_and_of_lavis(tmp_path: Path) -> None:
    settings = samples.aokvqa(tmp_path)
    found = draws(opened(tmp_path, settings))
    assert answers(found) == {"ride", "bus", "taxi", "travelling"}
    assert found[0].choices == ("skateboarder", "train", "delivery", "cab")
    rows = json.loads((tmp_path / settings["annotations"]).read_text())
    samples.write(tmp_path / "lavis.json", [{**rows[0], "image": "val2014/COCO_val2014_000000299207.jpg"}])
    samples.coco(tmp_path, 299207, form="COCO_val2014_{:012d}.jpg")
    lavis = opened(tmp_path, {**settings, "annotations": "lavis.json"})
    assert draws(lavis, 0, 1)[0].images[0].name == "COCO_val2014_000000299207.jpg"


def test_gqa_of_its_authors_and_of_lavis(tmp_path: Path) -> None:
    settings = samples.gqa(tmp_path)
    ours = draws(opened(tmp_path, settings))
    samples.write(
        tmp_path / "lavis.json",
        [{"image": "2354786.jpg", "question": "Is the sky dark?", "question_id": 1, "answer": "yes", "dataset": "gqa"}],
    )
    theirs = draws(opened(tmp_path, {**settings, "annotations": "lavis.json"}))
    assert questions(ours) == questions(theirs) and "is the sky dark?" in questions(ours)
    assert answers(ours) == answers(theirs) == {"yes"} and ours[0].images == theirs[0].images


def test_ocrvqa_takes_the_training_split_and_every_question_of_a_picture(tmp_path: Path) -> None:
    data = opened(tmp_path, samples.ocrvqa(tmp_path))
    assert [answers(draws(data, n, 1)).pop() for n in range(len(data.records))] == [
        "sandra boynton",
        "chocolate the consuming passion",
    ]
    assert draws(data, 0, 1)[0].images[0].name == "0316881791.jpg"


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_refcoco_and_backwards(tmp_path: Path, protocol: int) -> None:
    settings = samples.refcoco(tmp_path, protocol)
    data = opened(tmp_path, settings)
    box = "{<10><10><61><60>}"  # (4, 3) to (24.5, 18) of 40x30, truncated
    words = {"the left one", "bottle"}
    found = draws(data, 0, 400)
    assert len(data.records) == 1  # testA is left out
    assert questions(found) == {form.format(word) for form in TASKS["refer"].training for word in words}
    assert answers(found) == {box} and found[0].task == "refer"
    back = draws(opened(tmp_path, {**settings, "format": "invrefcoco"}), 0, 400)
    assert questions(back) == {form.replace("{}", box) for form in TASKS["identify"].training}
    assert answers(back) == words and back[0].task == "identify"


def test_visual_genome_takes_small_regions(tmp_path: Path) -> None:
    data = opened(tmp_path, samples.visual_genome(tmp_path))
    found = draws(data)
    assert len(data.records) == 1 and answers(found) == {"{<10><10><60><60>}"} and found[0].task == "refer"
    assert questions(found) == {form.format("the clock is green") for form in TASKS["refer"].training}
    assert found[0].images == (tmp_path / "vg" / "VG_100K_2" / "1.jpg",)


def test_flickr(tmp_path: Path) -> None:
    caption = draws(opened(tmp_path, samples.flickr_grounded_caption(tmp_path)))
    assert questions(caption) == set(TASKS["grounding"].training) and caption[0].task == "grounding"
    assert answers(caption).pop().startswith("<p>Two young guys</p> {<40><20><60><98>}<delim>{")
    phrases = draws(opened(tmp_path, samples.flickr_caption_to_phrase(tmp_path)))
    assert questions(phrases) == {"Two guys look."} and phrases[0].task == "detection"
    objects = draws(opened(tmp_path, samples.flickr_object_to_phrase(tmp_path)))
    assert answers(objects) == answers(phrases) == {"<p>Two guys</p> {<40><20><60><98>}"}
    assert questions(objects) == {"Two guys"}


def test_llava_whole_conversations_and_first_turns(tmp_path: Path) -> None:
    settings = samples.llava(tmp_path)
    whole = draws(opened(tmp_path, settings), 0, 1)[0]
    assert [(turn.question, turn.answer) for turn in whole.turns] == [
        ("What are the Colors?", "White and red."),
        ("Is it\nfull?", "Yes, of people."),
    ]
    assert whole.images[0].name == "COCO_train2014_000000000009.jpg" and whole.task is None
    first = draws(opened(tmp_path, settings, first_turn=True), 0, 1)[0]
    assert [(turn.question, turn.answer) for turn in first.turns] == [("what are the colors?", "White and red.")]
    samples.coco(tmp_path, 9, form="{:012d}.jpg")
    named = draws(opened(tmp_path, settings, image_name=""), 0, 1)[0]
    assert named.images[0].name == "000000000009.jpg"


def test_unnatural_instructions_as_list_and_as_lines(tmp_path: Path) -> None:
    settings = samples.unnatural_instructions(tmp_path)
    found = draws(opened(tmp_path, settings), 0, 1)[0]
    assert found.turns[0].question == "count the words sentence it rains answer with a number"
    assert (found.turns[0].answer, found.images, found.task) == ("two", (), None)
    rows = json.loads((tmp_path / settings["annotations"]).read_text())
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows * 2))
    assert len(opened(tmp_path, settings, annotations="lines.jsonl").records) == 2


def test_the_wordings_are_those_that_the_original_was_recorded_with(golden_dir: Path) -> None:
    text = (golden_dir / "golden" / "text.json").read_text(encoding="utf-8")
    assert "[caption] (text_caps)" in text
    for task, pool in (("refer", TASKS["refer"].training), ("identify", TASKS["identify"].training)):
        assert all(json.dumps(f"[{task}] {wording}") in text for wording in pool)
    assert "A short image caption:" in CAPTION and len(CAPTION) == 17


def test_pictures_may_lie_in_several_folders(tmp_path: Path) -> None:
    settings = samples.vqav2(tmp_path)
    (tmp_path / "more").mkdir()
    (tmp_path / "coco" / "COCO_train2014_000000000010.jpg").rename(
        tmp_path / "more" / "COCO_train2014_000000000010.jpg"
    )
    data = opened(tmp_path, settings, images=["coco", "more"])
    assert draws(data, 1, 1)[0].images[0].parent.name == "more"


def test_the_digest_knows_files_pictures_and_settings_but_not_the_place(tmp_path: Path) -> None:
    first = opened(tmp_path / "a", samples.vqav2(tmp_path / "a"))
    settings = samples.vqav2(tmp_path / "b")
    assert opened(tmp_path / "b", settings).digest == first.digest
    assert opened(tmp_path / "b", settings, clean=False).digest != first.digest
    samples.picture(tmp_path / "b" / "coco" / "COCO_train2014_000000000009.jpg", (44, 30))
    assert opened(tmp_path / "b", settings).digest != first.digest
