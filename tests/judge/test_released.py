"""The released checkpoints: tiny random models of the same architectures and layout, with cards of the same form."""

import os
import shutil

import pytest
import torch
from datasets import Dataset
from test_card_prompts import BARE, FORMAT, card, run_card
from tiny_models import save_tiny, tiny_config, tiny_tokenizer
from transformers import AutoModelForSequenceClassification, pipeline

from trl_spct import SPCTConfig
from trl_spct.data.preparation import prepare_judge_rows
from trl_spct.judge.prompts import RELEASED, TEMPLATES, judge_template, read_card_template
from trl_spct.judge.repositories import RELEASED_JUDGES
from trl_spct.trainers.loading import load_config, with_template

pytestmark = pytest.mark.usefixtures("one_thread")

ROW = {"query": "Which tea?", "responses": ["Green.", "Black [The End of Response 1]", "None."]}
COMMIT = "0" * 40


@pytest.fixture(autouse=True)
def templates(monkeypatch):
    monkeypatch.setattr("trl_spct.judge.prompts.TEMPLATES", dict(TEMPLATES))


def lay_out(folder, arch="gemma2", code=FORMAT):
    """A judge's checkpoint with its card, which says nothing of a template in its config."""
    save_tiny(folder, arch)
    (folder / "README.md").write_text(card(code))
    return str(folder)


@pytest.fixture
def meta(tmp_path):
    """`Gemma2ForSequenceClassification` with one logit, as transformers saves it."""
    torch.manual_seed(0)
    config = tiny_config("gemma2", num_labels=1)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "meta")
    tiny_tokenizer().save_pretrained(tmp_path / "meta")
    return str(tmp_path / "meta")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A cache of the Hub, offline, and what puts folders into it as repositories."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"), raising=False)
    (tmp_path / "hub").mkdir()

    def put(folder, repository):
        home = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
        shutil.copytree(folder, home / "snapshots" / COMMIT)
        (home / "refs").mkdir()
        (home / "refs" / "main").write_text(COMMIT)

    return put


def prompts_of(judge, monkeypatch):
    """The text of each prompt that the judge reads."""
    seen, sample = [], judge.sample

    def kept(prompts, *args, **kwargs):
        seen.extend(prompt[-1]["content"] for prompt in prompts)
        return sample(prompts, *args, **kwargs)

    monkeypatch.setattr(judge, "sample", kept)
    return seen


@pytest.mark.parametrize("arch", ["gemma2", "deepseek_v2"])
def test_a_released_judge_reads_its_own_prompt(arch, meta, tmp_path, monkeypatch):
    folder = lay_out(tmp_path / "judge", arch)
    judge = pipeline("grm-reward", model=folder, template="official", meta_rm=meta, max_new_tokens=4)
    seen = prompts_of(judge, monkeypatch)
    verdict = judge(ROW, k=3, seed=0, temperature=1.0)
    assert verdict["drawn"] == 3 and len(seen) == 3
    fenced = ["Green.", "Black (The End of Response 1)", "None."]
    orders = [[fenced[i] for i in critique["order"]] for critique in verdict["critiques"]]
    assert set(seen) == {run_card(FORMAT, ROW["query"], order)[0]["content"] for order in orders}
    (single,) = pipeline("grm-reward", model=folder, template="official", max_new_tokens=4)(
        [{**ROW, "responses": ["x"]}]
    )
    assert single["drawn"] == 1, "the default template for a single response, too"


def test_by_id_from_the_cache(hub, meta, tmp_path, monkeypatch):
    hub(lay_out(tmp_path / "judge"), RELEASED)
    hub(meta, "BBQGOD/DeepSeek-GRM-27B-MetaRM")
    judge = pipeline(
        "grm-reward", model="BBQGOD/DeepSeek-GRM-27B", template="official", meta_rm="BBQGOD/DeepSeek-GRM-27B-MetaRM"
    )
    seen = prompts_of(judge, monkeypatch)
    judge(ROW, k=2, seed=0, max_new_tokens=4)
    wanted = {run_card(FORMAT, ROW["query"], ["Green.", "Black (The End of Response 1)", "None."])[0]["content"]}
    assert {"".join(sorted(text)) for text in seen} == {"".join(sorted(text)) for text in wanted}
    assert judge_template("official") == read_card_template(RELEASED) == judge_template(f"official:{RELEASED}")


def test_whose_card_it_is(hub, tmp_path):
    """A released judge's and a snapshot's own; the released one's for a judge that has no card with a prompt."""
    other = BARE.replace("You weigh", "We weigh")
    hub(lay_out(tmp_path / "16b", "deepseek_v2", other), RELEASED_JUDGES[0])
    hub(lay_out(tmp_path / "27b"), RELEASED)
    own = pipeline("grm-reward", model=RELEASED_JUDGES[0], template="official")
    assert judge_template(own.find_template("official")).instructions.startswith("We weigh")
    released, template = pipeline("grm-reward", model=RELEASED_JUDGES[0]), f"official:{RELEASED_JUDGES[0]}"
    assert released.find_template() == template
    released.save_pretrained(tmp_path / "copy")
    assert pipeline("grm-reward", model=str(tmp_path / "copy")).find_template() == template
    args = SPCTConfig(str(tmp_path / "further"), use_cpu=True, bf16=False)
    assert with_template(args, load_config(RELEASED_JUDGES[0])).template == template
    base = pipeline("grm-reward", model=save_tiny(tmp_path / "base"))
    assert base.find_template("official") == "official"
    assert judge_template("official").instructions.startswith("You weigh")
    trained = lay_out(tmp_path / "trained", code=other)
    trained = pipeline("grm-reward", model=trained)
    trained.model.config.grm = {"template": "official"}  # its card is one of ours
    assert trained.find_template() == "official"
    named = f"official:{tmp_path / '16b'}"
    assert (
        judge_template(named).instructions.startswith("We weigh")
        and judge_template(named, True) is TEMPLATES["paper"][1]
    )


def test_training_reads_the_same_prompt(hub, tmp_path):
    hub(lay_out(tmp_path / "27b"), RELEASED)
    rows = Dataset.from_list([{"query": "Which tea?", "responses": ["Green.", "Black."], "labels": [0, 1]}])
    (row,) = prepare_judge_rows(rows, tiny_tokenizer(), template="official", shuffle_responses=False).dataset
    assert row["prompt"] == run_card(FORMAT, "Which tea?", ("Green.", "Black."))


def test_a_judge_that_learned_with_another_card(hub, tmp_path):
    hub(lay_out(tmp_path / "27b"), RELEASED)
    judge = pipeline("grm-reward", model=save_tiny(tmp_path / "judge"), max_new_tokens=4)
    judge.model.config.grm = {"template": "official", "template_digests": ["a", "b"]}
    with pytest.raises(ValueError, match=r"trained with another text of that name, \['a', 'b'\]"):
        judge(ROW)
    assert judge(ROW, template="official")["drawn"] == 1
    judge.model.config.grm["template_digests"] = [judge_template("official", v).digest for v in (False, True)]
    assert judge(ROW)["drawn"] == 1


def test_without_a_card(hub, tmp_path):
    with pytest.raises(
        OSError, match=rf"(?s)README.md of '{RELEASED}'.*hf download {RELEASED} README.md.*official:FOLDER"
    ):
        judge_template("official")
    folder = save_tiny(tmp_path / "judge")
    with pytest.raises(OSError, match="README.md of"):
        judge_template(f"official:{folder}")
    with open(os.path.join(folder, "README.md"), "w") as file:
        file.write("# No code\n")
    with pytest.raises(
        ValueError,
        match=f"judge's prompt from README.md of {folder}: Found no Python block.*to a text file",
    ):
        pipeline("grm-reward", model=folder, template="official")
