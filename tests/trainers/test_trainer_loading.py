# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
from types import SimpleNamespace

import pytest
from datasets import Dataset
from tiny_models import EOS, UNK, save_tiny, tiny_config, tiny_tokenizer
from transformers import AutoConfig

from trl_spct import Preference, RejectiveSamplerConfig, SPCTConfig
from trl_spct.judge.truncation import prompt_length
from trl_spct.trainers.loading import load_sampler, load_tokenizer, rows_for

CPU = {"use_cpu": True, "bf16": False, "template": "compact", "max_completion_length": 8}


@pytest.fixture(scope="module")
def unpadded(tmp_path_factory):
    """A judge whose tokenizer has no pad token, as Llama 3's."""
    folder = tmp_path_factory.mktemp("unpadded")
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None
    return save_tiny(folder, "llama", tokenizer)


@pytest.mark.parametrize(("args", "expected"), [(None, EOS), (SimpleNamespace(pad_token=UNK), UNK)])
def test_a_tokenizer_without_a_pad_token_gets_one(unpadded, args, expected):
    assert load_tokenizer(unpadded, AutoConfig.from_pretrained(unpadded), args).pad_token == expected


def test_a_samplers_tokenizer_gets_a_pad_token_too(unpadded, tmp_path):
    assert load_sampler(unpadded, RejectiveSamplerConfig(str(tmp_path), **CPU))[1].pad_token == EOS


def test_a_pad_token_of_its_own_stays(tmp_path):
    folder = save_tiny(tmp_path, "llama")
    args = SimpleNamespace(pad_token=UNK)
    assert load_tokenizer(folder, AutoConfig.from_pretrained(folder), args).pad_token == "<pad>"


@pytest.mark.parametrize("kind", [RejectiveSamplerConfig, SPCTConfig])
def test_rows_are_measured_against_the_shorter_of_two_contexts(kind, tmp_path):
    tokenizer = tiny_tokenizer()
    rows = [Preference("q" * length, ("a", "b"), (0, 1)) for length in (1, 400, 800)]
    dataset = Dataset.from_list([{"query": r.query, "responses": r.responses, "labels": r.labels} for r in rows])
    middle = prompt_length(rows[1], tokenizer, "compact") + CPU["max_completion_length"]

    def kept(limit, positions, invalid_rows="drop"):
        args = kind(str(tmp_path), max_context_length=limit, invalid_rows=invalid_rows, **CPU)
        config = tiny_config("llama", tokenizer, max_position_embeddings=positions)
        return len(rows_for(dataset, tokenizer, args, config, "rows").dataset)

    assert kept(middle, 8192) == kept(None, middle) == kept(8192, middle) == 2
    assert kept(middle - 1, 8192) == 1
    assert kept(None, 8192) == 3
    with pytest.raises(ValueError, match="rows row 2"):
        kept(middle, 8192, "error")
