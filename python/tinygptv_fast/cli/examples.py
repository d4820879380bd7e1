"""The examples of every command's ``--help``. A test runs each through the parser; docs/cli.md quotes them."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "demo": (
        "tinygptv demo",
        "tinygptv demo --seed 12 --out shown",
        'tinygptv demo --image picture.png --question "What colour is the circle?"',
    ),
    "draw": (
        'tinygptv draw "red star left of blue ring"',
        """tinygptv draw 'three small green circles above a large dotted heart and the word "cat"' --seed 7""",
        'tinygptv draw "two plain hearts and the number 42" --size 512 --out hearts.png --json',
    ),
    "ask": (
        'tinygptv ask picture.png "What colour is the circle?" --model demo',
        'tinygptv ask street.jpg "the red car" --task refer --draw boxes.png --model ./my-model',
        'cat picture.png | tinygptv ask - "How many shapes are there?" --json --model demo',
        """tinygptv ask '*.png' -q "How many shapes are there?" --task vqa --out answers.jsonl --model demo""",
        'tinygptv ask none "What is a triangle?" --model ./phi-2',
        'tinygptv ask picture.png "What colour is the circle?" --choices red,green,blue --model demo',
        'tinygptv ask picture.png "How many shapes are there?" --regex "[0-9]{1,2}" --model demo',
        'tinygptv ask picture.png "Which colour, and how many?" --json-schema ./schema.json --model demo',
    ),
    "caption": (
        "tinygptv caption picture.png --model demo",
        'tinygptv caption picture.png --regex "[a-z ]{10,60}" --model demo',
    ),
    "describe": ("tinygptv describe picture.png --draw boxes.png --model demo",),
    "refer": ('tinygptv refer picture.png "the red circle" --draw box.png --model demo',),
    "ground": ('tinygptv ground picture.png "the red circle" --draw out.png --model demo',),
    "detect": (
        "tinygptv detect picture.png circle --json --model demo",
        "tinygptv detect picture.png circle --boxes free --model demo",
    ),
    "identify": ("tinygptv identify picture.png 40,60,180,190 --model demo",),
    "chat": (
        "tinygptv chat picture.png --model demo",
        'echo "What colour is the circle?" | tinygptv chat picture.png --task vqa --model demo --json',
        "tinygptv chat --load ./talk.json --model ./tinygptv-int4",
    ),
    "fetch": (
        "tinygptv fetch --stage 4 --out ./tinygptv --convert",
        "tinygptv fetch --stage 3 --out ./tinygptv --yes --json",
        "tinygptv fetch --stage 4 --out ./tinygptv --phi microsoft/phi-2 --convert --quantization none",
    ),
    "convert": (
        "tinygptv convert --phi ./phi-2 --vision eva_vit_g.pth --qformer blip2_pretrained_flant5xxl.pth "
        "--checkpoint TinyGPT-V_for_Stage4.pth --image-size 448 --out ./tinygptv-int4",
        "tinygptv convert --phi ./phi-2 --vision eva_vit_g.pth --qformer blip2_pretrained_flant5xxl.pth "
        "--checkpoint TinyGPT-V_for_Stage3.pth --image-size 224 --quantization none --out ./tinygptv-exact",
        "tinygptv convert --phi ./phi-2 --quantization int8 --out ./phi-2-int8",
        "tinygptv convert --phi ./phi-2 --vision eva_vit_g.pth --qformer blip2_pretrained_flant5xxl.pth "
        "--untrained --image-size 224 --quantization none --out ./start",
    ),
    "verify": (
        "tinygptv verify ./tinygptv-int4",
        "tinygptv verify ./tinygptv-int4 --summary --json",
        "tinygptv verify ./tinygptv-int4 --phi ./phi-2 --vision eva_vit_g.pth "
        "--qformer blip2_pretrained_flant5xxl.pth --checkpoint TinyGPT-V_for_Stage4.pth --agreement",
        "tinygptv verify ./tinygptv-int4 --against ./tinygptv-exact --agreement",
    ),
    "doctor": (
        "tinygptv doctor",
        "tinygptv doctor --json",
        "tinygptv doctor --model ./tinygptv-int4",
        "tinygptv doctor --memory 4GB --ttft 60s",
        "tinygptv doctor --memory 3.5GiB --model ./tinygptv-int4",
    ),
    "calibrate": (
        "tinygptv calibrate ./questions.json --model ./tinygptv-int4",
        "tinygptv calibrate ./questions.json --images ./pictures --model ./tinygptv-int4 --out ./calibrated --json",
    ),
    "pack": ("tinygptv pack ./tinygptv-int4 --out tinygptv-int4.packed",),
    "cache": ("tinygptv cache", "tinygptv cache --clear"),
    "bench": (
        "tinygptv bench",
        "tinygptv bench --shape phi2 --group 128 --only decode,batch --json results.jsonl --plot roof.png",
        "tinygptv bench --model demo --quick --only decode,prefill,batch",
        "tinygptv bench --only jitter",
        "tinygptv bench --isa avx2 --only decode",
    ),
    "data": (
        "tinygptv data check ./stage4.json --stage 4",
        "tinygptv data check ./stage4.json --only gqa --only refcoco --decode --samples 3",
        "tinygptv data check ./stage1.json --json",
    ),
    "eval": (
        "tinygptv eval gqa --data drawn-gqa/testdev_balanced_questions.json --images drawn-gqa/images --protocol plain "
        "--model demo --out run-gqa",
        "tinygptv eval gqa --data ./gqa/testdev_balanced_questions.json --images ./gqa/images --model ./tinygptv-int4 "
        "--out ./runs/gqa --compare",
        "tinygptv eval okvqa --data ./OpenEnded_mscoco_val2014_questions.json "
        "--annotations ./mscoco_val2014_annotations.json --images ./val2014 --model ./tinygptv-int4 --out ./runs/okvqa",
        "tinygptv eval vsr --data ./vsr/test.jsonl --images ./coco --model ./tinygptv-int4 --out ./runs/vsr "
        "--compare --beside ./runs/gqa",
        "tinygptv eval refcoco --data ./refcoco/refcoco_val.json --images ./train2014 --model ./tinygptv-int4 "
        "--out ./runs/refcoco-val --json",
    ),
    "export-world": (
        "tinygptv export-world --format gqa --out drawn-gqa --count 24",
        "tinygptv export-world --format refcoco --out drawn-refcoco --seed 3 --json",
    ),
    "train": (
        "tinygptv train --stage 1 --model ./start --data ./captions.json --out ./run1",
        "tinygptv train --stage 2 --model ./start --adapter ./run1/adapter --data ./captions.json --out ./run2",
        "tinygptv train --stage 4 --model ./start-448 --adapter ./run3/adapter --data ./refcoco.json "
        "--data ./gqa.json --config ./mine.json --out ./run4 --resume",
        "tinygptv train --stage 4 --model ./start-448 --adapter ./run3/adapter --config ./stage4.json --out ./run4",
        "tinygptv train --stage 3 --out ./run3 --show",
    ),
    "finetune": (
        "tinygptv finetune ./data.json --model ./tinygptv-int4 --out ./mine",
        "tinygptv finetune ./data.json --model ./tinygptv-exact --out ./mine --merge ./my-model --steps 500",
        "tinygptv finetune ./boxes.json --images ./pictures --model ./tinygptv-int4 --out ./mine --unfreeze qformer",
        "tinygptv finetune ./data.json --replay ./old.json --replay-ratio 0.4 --model ./tinygptv-int4 --out ./mine",
    ),
    "info": ("tinygptv info demo", "tinygptv info ./tinygptv-int4 --json"),
}


def epilog(command: str) -> str:
    """The end of a command's help. Brackets are escaped: help texts are rich markup."""
    lines = [f"$ {line}" for line in EXAMPLES[command]]
    return "\n\n".join(["Examples", *lines]).replace("[", r"\[")
