"""The paper's data sets in small: every format as its authors publish it, with real pictures, written by hand.

Each function writes one data set into a folder and returns what a config says of it.
"""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from pathlib import Path
from typing import Any

from PIL import Image

Settings = dict[str, Any]


def picture_bytes(size: tuple[int, int] = (40, 30), seed: int = 0, kind: str = "JPEG", **how: Any) -> bytes:
    """A small picture file."""
    file = io.BytesIO()
    Image.new("RGB", size, (seed * 37 % 256, seed * 91 % 256, 128)).save(file, kind, **how)
    return file.getvalue()


def picture(path: Path, size: tuple[int, int] = (40, 30), seed: int = 0, **how: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture_bytes(size, seed, "PNG" if path.suffix == ".png" else "JPEG", **how))
    return path


def write(path: Path, data: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(data, ensure_ascii=False)
    path.write_text(text if text.isascii() or "\ud800" not in text else json.dumps(data), encoding="utf-8")
    return path


def coco(
    folder: Path, *numbers: int, form: str = "COCO_train2014_{:012d}.jpg", size: tuple[int, int] = (40, 30)
) -> str:
    """Pictures under COCO's names in ``folder/coco``; the folder's name in a config."""
    for number in numbers:
        picture(folder / "coco" / form.format(number), size, number)
    return "coco"


def tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def sample(key: str, caption: str, seed: int = 0) -> list[tuple[str, bytes]]:
    """One sample as img2dataset writes it: picture, json and txt."""
    facts = {"caption": caption, "url": f"http://example.org/{key}.jpg", "key": key, "status": "success", "width": 40}
    return [
        (f"{key}.jpg", picture_bytes(seed=seed)),
        (f"{key}.json", json.dumps(facts).encode()),
        (f"{key}.txt", caption.encode()),
    ]


def webdataset(folder: Path, shards: int = 2, each: int = 3) -> Settings:
    for shard in range(shards):
        members = []
        for number in range(each):
            key = f"{shard:05d}{number:04d}"
            members += sample(key, f"A photo No. {shard}{number}: Grün!", seed=shard * each + number)
        tar(folder / "shards" / f"{shard:05d}.tar", members)
    return {"format": "webdataset", "shards": f"shards/{{00000..{shards - 1:05d}}}.tar"}


def cc_sbu_align(folder: Path) -> Settings:
    captions = ["The image shows a Dog (brown).", "Two cats, asleep."]
    write(
        folder / "align" / "filter_cap.json",
        {"annotations": [{"image_id": str(n + 2), "caption": text} for n, text in enumerate(captions)]},
    )
    for number in (2, 3):
        picture(folder / "align" / "image" / f"{number}.jpg", seed=number)
    return {"format": "cc_sbu_align", "folder": "align"}


def textcaps(folder: Path) -> Settings:
    picture(folder / "textcaps" / "0054c91397f2fe05.jpg")
    rows = [
        {
            "image_id": "0054c91397f2fe05",
            "image_width": 40,
            "image_height": 30,
            "caption_str": text,
            "caption_id": number,
            "set_name": "train",
            "reference_strs": [],
            "image_classes": ["Sign"],
        }
        for number, text in enumerate(["A STOP sign.", "A sign; it says STOP"])
    ]
    path = write(
        folder / "TextCaps_0.1_train.json", {"dataset_type": "train", "dataset_name": "textcaps", "data": rows}
    )
    return {"format": "textcaps", "annotations": path.name, "images": "textcaps"}


def coco_captions(folder: Path) -> Settings:
    images = coco(folder, 9)
    rows = [
        {"caption": "A meal.", "image": "train2014/COCO_train2014_000000000009.jpg", "image_id": "coco_9"},
        {"caption": "Left out.", "image": "val2014/COCO_val2014_000000000042.jpg", "image_id": "coco_42"},
    ]
    return {"format": "coco_captions", "annotations": write(folder / "karpathy.json", rows).name, "images": images}


def vqa_files(answers: list[list[str]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Questions and annotations as visualqa.org has them, question n about picture n + 9."""
    questions = [
        {"image_id": 9 + n, "question": f"What is No. {n}?", "question_id": 9000 + n} for n in range(len(answers))
    ]
    annotations = [
        {
            "question_type": "what is",
            "multiple_choice_answer": given[0] if given else "",
            "answers": [
                {"answer": text, "answer_confidence": "yes", "answer_id": k + 1} for k, text in enumerate(given)
            ],
            "image_id": 9 + n,
            "answer_type": "other",
            "question_id": 9000 + n,
        }
        for n, given in enumerate(answers)
    ]
    info = {"info": {}, "task_type": "Open-Ended", "data_type": "mscoco", "data_subtype": "train2014", "license": {}}
    return {**info, "questions": questions}, {**info, "annotations": annotations}


def vqav2(folder: Path, answers: list[list[str]] | None = None) -> Settings:
    answers = [["Red"] * 7 + ["dark red"] * 3, ["2"] * 10] if answers is None else answers
    questions, annotations = vqa_files(answers)
    return {
        "format": "vqav2",
        "questions": write(folder / "v2_OpenEnded_mscoco_train2014_questions.json", questions).name,
        "annotations": write(folder / "v2_mscoco_train2014_annotations.json", annotations).name,
        "images": coco(folder, *range(9, 9 + len(answers))),
    }


def okvqa(folder: Path) -> Settings:
    return {**vqav2(folder), "format": "okvqa"}


def lavis_vqa(folder: Path) -> Settings:
    rows = [
        {
            "question_id": 1,
            "question": "Where? (here)",
            "answer": ["net", "net", "", "a net"],
            "image": "train2014/COCO_train2014_000000000009.jpg",
            "dataset": "vqa",
        }
    ]
    path = write(folder / "vqa_train.json", rows)
    return {"format": "lavis_vqa", "annotations": path.name, "images": coco(folder, 9)}


def aokvqa(folder: Path) -> Settings:
    rows = [
        {
            "split": "train",
            "image_id": 299207,
            "question_id": "22MexNkBPpdZGX6sxbxVBH",
            "question": "What is the man by the bags awaiting?",
            "choices": ["skateboarder", "train", "delivery", "cab"],
            "correct_choice_idx": 3,
            "direct_answers": ["ride", "ride", "bus", "taxi", "travelling"],
            "difficult_direct_answer": False,
            "rationales": ["A train would not be on the street."],
        }
    ]
    path = write(folder / "aokvqa_v1p0_train.json", rows)
    return {
        "format": "aokvqa",
        "annotations": path.name,
        "images": coco(folder, 299207, form="{:012d}.jpg"),
    }


def gqa(folder: Path) -> Settings:
    rows = {
        "02930152": {
            "semantic": [{"operation": "select", "dependencies": [], "argument": "sky (2486325)"}],
            "entailed": [],
            "equivalent": ["02930152"],
            "question": "Is the sky dark?",
            "imageId": "2354786",
            "isBalanced": True,
            "answer": "yes",
            "fullAnswer": "Yes, the sky is dark.",
        }
    }
    picture(folder / "gqa" / "2354786.jpg")
    return {"format": "gqa", "annotations": write(folder / "gqa.json", rows).name, "images": "gqa"}


def ocrvqa(folder: Path) -> Settings:
    rows = {
        "0316881791": {
            "imageURL": "http://images.amazon.com/images/P/0316881791.01.jpg",
            "questions": ["Who wrote this book?", "What is the title?"],
            "answers": ["Sandra Boynton", "Chocolate: The Consuming Passion"],
            "title": "Chocolate",
            "authorName": "Sandra Boynton",
            "genre": "Humor",
            "split": 1,
        },
        "0000000001": {
            "imageURL": "http://x/1.jpg",
            "questions": ["?"],
            "answers": ["no"],
            "title": "",
            "genre": "",
            "split": 3,
        },
    }
    picture(folder / "ocr" / "0316881791.jpg")
    return {"format": "ocrvqa", "annotations": write(folder / "dataset.json", rows).name, "images": "ocr"}


def refer_data() -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """(refs, instances) as REFER has them, of picture 9, 40x30."""
    sentences = [
        {"tokens": ["The", "LEFT", "one"], "raw": "The LEFT one.", "sent_id": 0, "sent": "the left one"},
        {"tokens": ["bottle"], "raw": "bottle", "sent_id": 1, "sent": "bottle"},
    ]
    ref = {
        "sent_ids": [0, 1],
        "file_name": "COCO_train2014_000000000009_1.jpg",
        "ann_id": 1,
        "ref_id": 0,
        "image_id": 9,
        "split": "train",
        "sentences": sentences,
        "category_id": 44,
    }
    other = {**ref, "ann_id": 2, "ref_id": 1, "split": "testA", "sent_ids": [2], "sentences": sentences[1:]}
    instances = {
        "images": [{"id": 9, "file_name": "COCO_train2014_000000000009.jpg", "width": 40, "height": 30}],
        "annotations": [
            {"id": 1, "image_id": 9, "category_id": 44, "bbox": [4.0, 3.0, 20.5, 15.0], "area": 9.0, "iscrowd": 0},
            {"id": 2, "image_id": 9, "category_id": 44, "bbox": [0.0, 0.0, 5.0, 5.0], "area": 9.0, "iscrowd": 0},
        ],
        "categories": [{"supercategory": "kitchen", "id": 44, "name": "bottle"}],
    }
    return [ref, other], instances


def refcoco(folder: Path, protocol: int = 0) -> Settings:
    """Protocol 0, as Python 2 wrote the real files."""
    refs, instances = refer_data()
    write(folder / "refcoco" / "instances.json", instances)
    (folder / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=protocol))
    return {"format": "refcoco", "folder": "refcoco", "images": coco(folder, 9)}


def invrefcoco(folder: Path) -> Settings:
    return {**refcoco(folder), "format": "invrefcoco"}


def visual_genome(folder: Path) -> Settings:
    root = folder / "vg"
    regions = [
        {"region_id": 1382, "width": 20, "height": 15, "image_id": 1, "phrase": "the clock is Green", "y": 3, "x": 4},
        {"region_id": 1383, "width": 200, "height": 100, "image_id": 1, "phrase": "too large", "y": 0, "x": 0},
    ]
    write(root / "region_descriptions.json", [{"regions": regions, "id": 1}])
    address = "https://cs.stanford.edu/people/rak248/VG_100K_2/1.jpg"
    write(
        root / "image_data.json",
        [{"width": 40, "url": address, "height": 30, "image_id": 1, "coco_id": None, "flickr_id": None}],
    )
    picture(root / "VG_100K_2" / "1.jpg")
    return {"format": "visual_genome", "folder": "vg"}


def _flickr(folder: Path, name: str, rows: list[dict[str, Any]]) -> Settings:
    picture(folder / "flickr" / "1000092795.jpg")
    return {"annotations": write(folder / name, rows).name, "images": "flickr"}


def flickr_grounded_caption(folder: Path) -> Settings:
    text = "<p>Two young guys</p> {<40><20><60><98>}<delim>{<61><20><80><99>} look at <p>hands</p> {<45><50><50><55>}."
    rows = [{"image_id": "1000092795", "grounded_caption": text}]
    return {"format": "flickr_grounded_caption", **_flickr(folder, "groundedcaption.json", rows)}


def flickr_caption_to_phrase(folder: Path) -> Settings:
    rows = [{"image_id": "1000092795", "caption": "Two guys look.", "output": "<p>Two guys</p> {<40><20><60><98>}"}]
    return {"format": "flickr_caption_to_phrase", **_flickr(folder, "captiontobbox.json", rows)}


def flickr_object_to_phrase(folder: Path) -> Settings:
    rows = [{"image_id": "1000092795", "phrase": "Two guys", "bbox": "{<40><20><60><98>}"}]
    return {"format": "flickr_object_to_phrase", **_flickr(folder, "phrasetobbox.json", rows)}


def llava(folder: Path) -> Settings:
    rows = [
        {
            "id": "000000000009",
            "image": "000000000009.jpg",
            "conversations": [
                {"from": "human", "value": "What are the Colors?\n<image>"},
                {"from": "gpt", "value": "White and red."},
                {"from": "human", "value": "Is it\nfull?"},
                {"from": "gpt", "value": "Yes, of people."},
            ],
        }
    ]
    path = write(folder / "conversation_58k.json", rows)
    return {"format": "llava", "annotations": path.name, "images": coco(folder, 9)}


def unnatural_instructions(folder: Path) -> Settings:
    row = {
        "instruction": "Count the words.",
        "instances": [
            {
                "instruction_with_input": "Count the words. Sentence: It rains.",
                "input": "It rains.",
                "constraints": "Answer with a number.",
                "output": "Two",
            },
            {"instruction_with_input": "x", "input": "x", "constraints": None, "output": "y"},
        ],
    }
    return {"format": "unnatural_instructions", "annotations": write(folder / "unnatural.json", [row]).name}


ALL = {
    make.__name__: make
    for make in (
        webdataset, cc_sbu_align, textcaps, coco_captions, vqav2, okvqa, lavis_vqa, aokvqa, gqa, ocrvqa, refcoco,
        invrefcoco, visual_genome, flickr_grounded_caption, flickr_caption_to_phrase, flickr_object_to_phrase, llava,
        unnatural_instructions,
    )
}  # fmt: skip


def whole_mix(folder: Path) -> dict[str, Any]:
    """Every format in a folder of its own, as the "data" of a config."""
    sets = {}
    for name, make in ALL.items():
        found = make(folder / name)
        sets[name] = {
            key: f"{name}/{value}" if key in ("shards", "folder", "annotations", "questions", "images") else value
            for key, value in found.items()
        }
    return {"root": str(folder), "sets": sets}
