# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Chat templates that print the date, on a day of their own."""

import json
from datetime import date

import pytest
from datasets import Features, Value
from tiny_models import tiny_tokenizer

from trl_spct.jobs import MANIFEST, ShardedJob
from trl_spct.judge.dates import dated_template, on_day, prints_date, undated_template
from trl_spct.judge.meta_scoring import encode_meta
from trl_spct.judge.sampling import encode_prompts

TURN = {"role": "user", "content": "a"}
LLAMA = (
    "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}{{ date_string }}!"
)
BY_VARIABLE = "{% set form = '%Y' %}{{ strftime_now(form) }}!"


def tokenizer(template):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template + "{% for m in messages %}{{ m.content }}{% endfor %}"
    return tokenizer


def text_of(tokenizer, **variables):
    (prompt,), meta = encode_prompts(tokenizer, [[TURN]], variables), encode_meta(tokenizer, [TURN], **variables)
    assert prompt == meta
    return tokenizer.decode(prompt)


def test_prompts_of_a_judge_and_of_a_meta_rm_have_the_day():
    llama, plain = tokenizer(LLAMA), tokenizer("")
    today = date.today().strftime("%d %b %Y")
    assert text_of(llama) == f"{today}!a"
    with on_day(date(2024, 2, 29)):
        assert text_of(llama) == "29 Feb 2024!a"
        assert text_of(llama, date_string="a day") == "a day!a", "a variable comes before"
        assert not prints_date(llama, {})
        with on_day(date(2025, 1, 3)):
            assert text_of(llama) == "03 Jan 2025!a"
        assert text_of(plain) == "a" and dated_template(plain) == {}
    assert text_of(llama) == f"{today}!a" and dated_template(llama) == {}
    assert prints_date(llama, {}) and not prints_date(llama, {"date_string": "a day"}) and not prints_date(plain, {})


def test_the_format_of_a_date_may_be_a_variable():
    by_variable = tokenizer(BY_VARIABLE)
    assert undated_template(by_variable) and prints_date(by_variable, {})
    with on_day(date(2024, 2, 29)):  # which cannot be set
        assert text_of(by_variable) == f"{date.today().year}!a"


@pytest.mark.parametrize("concurrency", [1, 2])
def test_a_job_that_is_resumed_keeps_the_day_it_began_with(tmp_path, concurrency):
    llama = tokenizer(LLAMA)

    def run():
        job = ShardedJob(tmp_path, 4, 1, Features({"text": Value("string")}), {"kind": "test"})
        list(job.run(lambda rows: [{"text": text_of(llama)} for _ in rows], concurrency=concurrency))
        return job.read()["text"][:]

    assert run() == [f"{date.today():%d %b %Y}!a"] * 4
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    (tmp_path / MANIFEST).write_text(json.dumps({**manifest, "started_on": "2024-02-29"}))
    (tmp_path / "shard-00002.parquet").unlink()
    assert run()[2] == "29 Feb 2024!a"
