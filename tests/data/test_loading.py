# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Files as datasets: each cell keeps its text, and a file that cannot be read is named."""

import bz2
import csv
import gzip
import json
import lzma
import tempfile

import pytest
from datasets import Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trl import DatasetMixtureConfig, ScriptArguments
from trl.scripts.utils import DatasetConfig

from trl_spct.data.loading import load_named, load_preferences, load_rows
from trl_spct.data.preparation import prepare_preferences


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.parametrize("load", [load_named, load_rows])
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.jsonl", "", "The file empty.jsonl is empty; expected at least one row"),
        ("empty.csv", "", "The file empty.csv is empty"),
        ("blank.jsonl", "\n\n", "The file blank.jsonl holds no rows"),
        ("none.json", "[]", "The file none.json holds no rows"),
        ("header.csv", "a,b\n", "The file header.csv holds no rows"),
        (
            "b.jsonl",
            '{"a": 1}\n\n{"a":\n',
            "b.jsonl line 3 is not JSON: Expecting value at column 6; expected one row",
        ),
        ("cut.jsonl", '{"a": 1}\n{"a": "x', "cut.jsonl line 2 is not JSON: Unterminated string"),
        ("lines.json", '{"a": 1}\n{"a"\n', "lines.json line 2 is not JSON: Expecting ':' delimiter at column 5"),
        ("wide.csv", "a,b\n1,2\n3,4,5\n", "wide.csv line 3 has 3 cells, and the header has 2; .* commas into quotes"),
        ("shifted.csv", "a,b\nx, y,z\n", "shifted.csv line 2 has 3 cells, and the header has 2"),
        ("open.csv", 'a,b\n"x,y\n', "open.csv cannot be read as csv: .*EOF inside string"),
        ("no.parquet", "PAR1", "no.parquet cannot be read as parquet: "),
        ("b.json", '[{"a": 1},\n{"a"]', "b.json line 2 is not JSON: Expecting ':' delimiter at column 5"),
    ],
)
def test_files_that_cannot_be_read(load, name, content, message, folder):
    (folder / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        load(name)


@pytest.mark.parametrize("opened", [gzip.open, bz2.open, lzma.open], ids=["gz", "bz2", "xz"])
def test_a_bad_line_of_a_compressed_file_has_its_number(opened, folder):
    name = f"rows.jsonl.{ {gzip.open: 'gz', bz2.open: 'bz2', lzma.open: 'xz'}[opened] }"
    with opened(folder / name, "wt") as file:
        file.write('{"a": 1}\n' * 3 + '{"a": oops}\n' + '{"a": 1}\n')
    with pytest.raises(ValueError, match=rf"{name} line 4 is not JSON: Expecting value at column 7"):
        load_rows(name)


def test_a_file_that_is_cut_off(folder):
    packed = gzip.compress(b'{"a": "x"}\n' * 1000)
    (folder / "rows.jsonl.gz").write_bytes(packed[:-12])
    with pytest.raises(ValueError, match="The file rows.jsonl.gz is cut off"):
        load_rows("rows.jsonl.gz")


def test_a_text_that_is_not_utf_8_has_its_place(folder):
    row, bad = ({"prompt": "q", "chosen": text, "rejected": "b"} for text in ("a", "\xff"))
    lines = [json.dumps(row, ensure_ascii=False).encode("latin-1") for row in [row] * 37 + [bad] + [row] * 37]
    (folder / "rows.jsonl").write_bytes(b"\n".join(lines))
    with pytest.raises(ValueError, match="train_dataset: found a text that is not UTF-8 .* 10 rows after row 3[0-6]"):
        prepare_preferences(load_rows("rows.jsonl")["train"])
    (folder / "mixed.jsonl").write_bytes(b"\n".join([*lines, b'{"prompt": [1]']))
    with pytest.raises(ValueError, match="mixed.jsonl line 38 is not UTF-8: invalid start byte"):
        load_rows("mixed.jsonl")


SPECIAL = [
    "NA",
    "nan",
    "null",
    "None",
    "N/A",
    "1",
    "01",
    "1e5",
    "true",
    "a,b",
    '"q"',
    "x\ny",
    " a",
    "a ",
    "#x",
    "é",
    "日本",
]
TEXTS = st.sampled_from(SPECIAL) | st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).filter(
    str.strip
)
ROWS = st.lists(
    st.fixed_dictionaries({"prompt": TEXTS, "chosen": TEXTS, "rejected": TEXTS})
    | st.fixed_dictionaries({"prompt": TEXTS, "completion": TEXTS, "label": st.booleans()}),
    min_size=1,
    max_size=4,
).filter(lambda rows: len({frozenset(row) for row in rows}) == 1)


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ROWS)
def test_a_row_is_the_same_in_every_format_and_file(rows):
    """Or is refused: in a CSV file a text `1` is a number."""

    def read(rows):
        try:
            rows = load_rows(rows)["train"] if isinstance(rows, str) else rows
            return list(prepare_preferences(rows).dataset)
        except ValueError as error:
            return type(error)

    expected = read(rows)
    dataset = Dataset.from_list(rows)
    for format in ("numpy", "torch", "pandas", "arrow"):
        assert read(dataset.with_format(format)) == expected
    assert read(list(dataset.with_format("numpy"))) == expected
    with tempfile.TemporaryDirectory() as folder:
        dataset.to_parquet(f"{folder}/rows.parquet")
        for name, opened in (("rows.jsonl", open), ("rows.json.gz", gzip.open)):
            with opened(f"{folder}/{name}", "wt", encoding="utf-8") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
        with open(f"{folder}/rows.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
        for name in ("rows.parquet", "rows.jsonl", "rows.json.gz", "rows.csv"):
            got = read(f"{folder}/{name}")
            assert got == expected or (name == "rows.csv" and isinstance(got, type))


@pytest.mark.parametrize("name", ["gone.jsonl", "gone.jsonl.gz", "./gone", "a/b/c", "*.csv", "gone/rows.parquet"])
def test_files_that_do_not_exist(name, folder):
    with pytest.raises(FileNotFoundError, match="^Found no file") as error:
        load_named(name)
    assert str(folder) in str(error.value)


def test_cells_keep_their_text(folder):
    (folder / "rows.csv").write_text("prompt,chosen,rejected,label\nq,NA,null,1\nr,nan,None,\ns,,n/a,0\n")
    rows = list(load_named("rows.csv")["train"])
    assert [row["chosen"] for row in rows] == ["NA", "nan", None]
    assert [row["rejected"] for row in rows] == ["null", "None", "n/a"]
    assert [row["label"] for row in rows] == [1, None, 0]


@pytest.mark.parametrize(
    "listed", [str, lambda name: [name], lambda name: {"train": name}, lambda name: {"train": [name]}]
)
def test_cells_keep_their_text_and_place_in_a_mixture(folder, listed):
    (folder / "rows.csv").write_text("prompt,chosen,rejected\nq,NA,null\n")
    (folder / "shifted.csv").write_text("prompt,chosen,rejected\nq,a,b,\nr,c,d,\n")

    def load(name):
        parts = [DatasetConfig("csv", data_files=listed(name), split="train")]
        return load_preferences(ScriptArguments(), DatasetMixtureConfig(datasets=parts))["train"]

    assert load("rows.csv")["responses"][:] == [["NA", "null"]]
    with pytest.raises(ValueError, match="shifted.csv line 2 has 4 cells, and the header has 3"):
        load("shifted.csv")


def test_long_cells_are_read(folder):
    (folder / "rows.csv").write_text(f"prompt,chosen,rejected\nq,{'y' * 200_000},b\n")
    assert len(load_named("rows.csv")["train"][0]["chosen"]) == 200_000


def test_columns_of_mixed_types_are_read_row_by_row(folder):
    with gzip.open(folder / "rows.jsonl.gz", "wt") as file:
        file.write('{"a": [1]}\n' * 3 + '{"a": "x"}\n{"a": {"b": 2}}\n')
    assert list(load_rows("rows.jsonl.gz")["train"]) == [{"a": [1]}] * 3 + [{"a": "x"}, {"a": {"b": 2}}]
