# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Rewards by a judge of `trl-spct serve` in verl and slime, in a file that needs nothing else of this package."""

import asyncio
from functools import lru_cache
from typing import Any


async def compute_score(data_source, solution_str, ground_truth, extra_info=None, *, url, query="question", **others):
    """verl's custom reward function. Its `reward_kwargs` have the `url` of the server's `/remote_rm`, and
    `extra_info[query]` of the rows holds the prompt, which verl does not hand over."""
    if query not in (extra_info or {}):
        raise KeyError(f"Found no {query!r} in `extra_info`; expected the prompt there, or its name as `query`.")
    sample = {"prompt": extra_info[query], "response": solution_str, "label": ground_truth}
    return {"score": (await _ask(url, [sample]))[0]}


async def group_rm(args, samples, **others) -> Any:
    """slime's `--custom-rm-path`, with `--group-rm` for a whole group. `--rm-url` is the server's `/remote_rm`."""
    group = samples if isinstance(samples, list) else [samples]
    rows = [{name: getattr(sample, name) for name in ("prompt", "response", "label")} for sample in group]
    rewards = await _ask(args.rm_url, rows)
    return rewards if isinstance(samples, list) else rewards[0]


async def _ask(url: str, samples: list[dict[str, Any]]) -> list[float]:
    rewards: Any = await _client(url, asyncio.get_running_loop()).post(url, body=samples, cast_to=object)
    if None in rewards:
        raise ValueError("Found a response without a judgment; expected a reward. Set one in the URL: `unreadable=`.")
    return rewards


@lru_cache(maxsize=16)
def _client(url: str, loop: asyncio.AbstractEventLoop) -> Any:
    import openai  # its client is slow to make, and cannot leave the event loop

    return openai.AsyncOpenAI(base_url=url, api_key="EMPTY", max_retries=10, timeout=600.0)
