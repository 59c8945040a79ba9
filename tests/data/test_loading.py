# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Files as datasets: each cell keeps its text, and a file that cannot be read is named."""

import gzip

import pytest

from trl_spct.data.loading import load_named, load_rows


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
        ("b.json", '[{"a": 1},\n{"a"]', "b.json line 2 is not JSON: Expecting ':' delimiter at column 5"),
    ],
)
def test_files_that_cannot_be_read(load, name, content, message, folder):
    (folder / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        load(name)


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


def test_columns_of_mixed_types_are_read_row_by_row(folder):
    with gzip.open(folder / "rows.jsonl.gz", "wt") as file:
        file.write('{"a": [1]}\n' * 3 + '{"a": "x"}\n{"a": {"b": 2}}\n')
    assert list(load_rows("rows.jsonl.gz")["train"]) == [{"a": [1]}] * 3 + [{"a": "x"}, {"a": {"b": 2}}]
