# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Arguments and loaders that several recipes share."""

import json
import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .judge.judging import JudgingOptions
from .judge.orders import ORDERS
from .judge.prompts import OFFICIAL, TEMPLATES, judge_template
from .judge.sampling import check_sampling
from .judge.voting import Guidance
from .server_answers import DIALECTS

if TYPE_CHECKING:
    from trl import ModelConfig, TrlParser

    from .judge.pipelines import GRMRewardPipeline


BASE_URL_HELP = "Address of an OpenAI-compatible server. The model's name is then its name there, if needed."
TOKENIZER_HELP = "Tokenizer of the model, for a server that reads token ids: no response then holds control tokens."
KEY_HELP = "Key of the servers. Default: the environment variable OPENAI_API_KEY."
TEMPLATE_HELP = (
    f"Prompt template: one of {', '.join(sorted(TEMPLATES))}; {OFFICIAL}, the prompt on a released judge's card; "
    "or a text file in which {conversation} and {responses} stand. Default: the template in the judge's config."
)


def helped(default: Any, help: str, choices: Iterable[str] | None = None, **options: Any) -> Any:
    """A dataclass field with the help of its command line option."""
    metadata = {"help": help, **({} if choices is None else {"choices": list(choices)})}
    return field(default=default, metadata=metadata, **options)


def wants_embedded(arguments: Sequence[str]) -> bool:
    """Whether a command line names the embedded example, or neither a model nor a configuration nor help."""
    names = {argument.split("=")[0].replace("_", "-") for argument in arguments}
    return "--tiny" in names or not names & {"--model-name-or-path", "--model", "--config", "--help", "-h"}


@dataclass
class JudgeArguments:
    """The judge of `label` and `evaluate`, in this process or on a server, and how it samples."""

    _argument_group_name = "judge"

    base_url: str | None = helped(None, BASE_URL_HELP)
    tokenizer_name_or_path: str | None = helped(None, TOKENIZER_HELP)
    dialect: str = helped("vllm", "API of the server.", DIALECTS)
    api_key: str | None = helped(None, KEY_HELP, repr=False)
    requests_per_minute: float = helped(math.inf, "Limit of requests to the judge's server.")
    tokens_per_minute: float = helped(math.inf, "Limit of tokens read and written there.")
    meta_rm: str | None = helped(
        None, "Meta RM, by path or Hub id. Default: that of the judge's repository; `none` votes without one."
    )
    meta_rm_base_url: str | None = helped(
        None, "Address of a vLLM or SGLang server with the Meta RM, of which meta_rm then gives tokenizer and config."
    )
    guide: str | None = helped(
        None,
        "top: the k_meta critiques with the highest meta scores vote; soft: all vote, weighted by their probability "
        "to be correct. Default: as stored with the Meta RM.",
        ("top", "soft"),
    )
    k_meta: str | None = helped(
        None, "Critiques that vote under guide top: a number such as 8, or a share such as 0.5 (the paper's)."
    )
    temperature: float | None = helped(None, "Sampling temperature. Default: 0.5 for k > 1 and greedy for k = 1.")
    max_new_tokens: int | None = helped(None, "Longest critique in tokens. Default: that of the judge, else 1024.")
    template: str | None = helped(None, TEMPLATE_HELP)
    chat_template_kwargs: dict | str | None = helped(
        None, "Variables of the chat template as JSON, such as '{\"enable_thinking\": false}'. Default: the judge's."
    )
    max_thinking_tokens: int | None = helped(
        None, "Tokens after which an open draft (<think>) is closed. They are part of max_new_tokens."
    )
    close_critiques: bool | None = helped(
        None, "Decode the scores alone behind critiques that ended without any. They are counted apart."
    )
    order: str | None = helped(
        None,
        "Orders in which critiques read the responses: balanced (each equally often in each place, the default), "
        "random (the paper's) or fixed.",
        ORDERS,
    )
    truncation: str | None = helped(
        None, "fair cuts the longest texts of rows that do not fit into the judge's context.", ("fair",)
    )
    batch_size: int | None = helped(None, "Rows judged together. Default: as many as make 256 critiques.")
    prices: list[float] | None = helped(
        None, "Prices of a million tokens that the judge reads and writes, such as 0.1 0.4, for the reports."
    )

    def __post_init__(self) -> None:
        with suppress(TypeError, ValueError):
            self.chat_template_kwargs = json.loads(self.chat_template_kwargs)  # type: ignore[arg-type]
        JudgingOptions(chat_template_kwargs=self.chat_template_kwargs)  # type: ignore[arg-type]
        check_sampling(self.temperature, None, self.max_new_tokens)
        if self.template is not None and self.template.partition(":")[0] != OFFICIAL:
            judge_template(self.template)
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"Found batch_size={self.batch_size}; expected at least 1.")
        Guidance.of(None, **self.guidance)
        if self.prices is not None and (len(self.prices) != 2 or not min(self.prices) >= 0):
            raise ValueError(f"Found prices={self.prices}; expected two numbers, for tokens read and written.")

    @property
    def guidance(self) -> dict[str, Any]:
        """Arguments of the pipeline that guide the vote."""
        try:
            k_meta = None if self.k_meta is None else (int if self.k_meta.isdigit() else float)(self.k_meta)
        except ValueError:
            raise ValueError(f"Found k_meta={self.k_meta!r}; expected a number such as 8, or a share, 0.5.") from None
        return {"k_meta": k_meta, "guide": self.guide}

    def options(self, *names: str) -> dict[str, Any]:
        """Arguments of the pipeline that were given, those of `names`, or all that say how to sample."""
        sampling = "temperature max_new_tokens template order truncation close_critiques max_thinking_tokens"
        names = names or tuple(sampling.split())
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


def load_judge(args: JudgeArguments, model_args: "ModelConfig", device: Any = None) -> "GRMRewardPipeline":
    """The judge that the arguments name, on a device (by default an accelerator, if there is one) or on a server; a
    guidance without a Meta RM is refused."""
    from .engines import MetaRMEngine, OpenAIEngine
    from .judge.pipelines import GRMRewardPipeline

    name = model_args.model_name_or_path
    meta_rm: Any = {None: "auto", "none": None}.get(args.meta_rm, args.meta_rm)
    variables: Any = args.chat_template_kwargs
    if args.meta_rm_base_url is not None:
        if args.meta_rm in (None, "none"):
            raise ValueError("Found `meta_rm_base_url` without `meta_rm`; expected the Meta RM's folder or Hub id.")
        meta_rm = MetaRMEngine(None, args.meta_rm_base_url, args.api_key, tokenizer=args.meta_rm)
    if args.base_url is not None:
        server = (args.base_url, args.api_key, args.tokenizer_name_or_path)
        limits = {name: getattr(args, name) for name in ("requests_per_minute", "tokens_per_minute")}
        engine = OpenAIEngine(name, *server, dialect=args.dialect, chat_template_kwargs=variables, **limits)
        judge = GRMRewardPipeline(engine, meta_rm=meta_rm, device=device)
    elif name is None:
        raise ValueError("Found no judge; expected `model_name_or_path`, or `base_url` for one on a server.")
    else:
        revision = model_args.model_revision
        judge = load_pipeline(name, model_args, device, meta_rm, revision=revision, chat_template_kwargs=variables)
    guidance = {name: value for name, value in args.guidance.items() if value is not None}
    if guidance and judge.meta_rm is None:
        raise ValueError(f"Found {guidance} without a Meta RM; expected one in `meta_rm` or in its repository.")
    return judge


def inference_parser(*types: Any, **options: Any) -> "TrlParser":
    """TRL's parser for scripts that train nothing: a model keeps the dtype of its checkpoint, unlike in TRL."""
    from trl import TrlParser

    parser = TrlParser(types, **options)
    parser.set_defaults(dtype="auto")
    return parser


def load_pipeline(
    model: str, model_args: "ModelConfig", device: Any = None, meta_rm: Any = None, **options: Any
) -> "GRMRewardPipeline":
    """A judge in this process, with the dtype, attention and quantization of TRL's model arguments."""
    from transformers import pipeline
    from trl import get_quantization_config

    from .judge.pipelines import TASK, register

    register()
    options |= {"dtype": model_args.dtype, "device": device, "meta_rm": meta_rm}
    model_kwargs: dict[str, Any] = {"attn_implementation": model_args.attn_implementation}
    if (quantization := get_quantization_config(model_args)) is not None:
        options |= {"device": None, "device_map": {"": 0 if device is None else device}}
        model_kwargs["quantization_config"] = quantization
    return pipeline(TASK, model=model, model_kwargs=model_kwargs, **options)
