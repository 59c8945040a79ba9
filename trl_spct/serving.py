# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""A judge as an HTTP server: rows of all clients are judged together, and a whole group in one judgment."""

import asyncio
import base64
import hmac
import json
import os
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any

import torch
from accelerate import PartialState

from .evaluation.judgments import judge_all
from .judge.conversations import conversation_text
from .judge.costs import Cost, metered
from .judge.judging import JudgingOptions, check_whole
from .judge.orders import count_occurrences, row_key
from .judge.pipelines import GRMRewardPipeline
from .judge.preferences import Preference
from .judge.prompts import judge_template, portable_template
from .judge.sampling import EngineError
from .rewards import API_KEY, THOUGHTS, Group, group_completions, group_rewards, read_completions
from .scripts import JudgeArguments, helped, inference_parser, load_judge

try:
    import uvicorn
    from fastapi import FastAPI, HTTPException, Request, Response
    from fastapi.responses import JSONResponse
    from prometheus_client import CONTENT_TYPE_LATEST, Counter, Gauge, Histogram, generate_latest
except ImportError as error:
    raise ImportError('Serving a judge needs `pip install "trl-spct[serve]"`.') from error


# A template may be a file of this machine: the server chooses it, and the variables of the chat template.
REQUEST_OPTIONS = {option.name for option in fields(JudgingOptions)} - {"template", "chat_template_kwargs"}
BATCH_CRITIQUES = 256
ENGINE_CALLS = 8

SECONDS = Histogram(
    "trl_spct_request_seconds", "Time to answer.", ["path", "status"], buckets=[2.0**power for power in range(-4, 10)]
)
ROWS = Counter("trl_spct_rows", "Judged rows.")
TOKENS = Counter("trl_spct_tokens", "Tokens that were read, written, or scored by the Meta RM.", ["direction"])
JUDGING = Counter("trl_spct_judging_seconds", "Seconds of judging.")
MONEY = Counter("trl_spct_money", "What the judge cost at `--prices`.")
UNREADABLE = Counter("trl_spct_unreadable_critiques", "Unreadable critiques.", ["cause"])
QUEUE = Gauge("trl_spct_queue_rows", "Waiting rows.")


@dataclass
class ServeArguments:
    """Arguments of the server."""

    host: str = helped("127.0.0.1", "Address to listen on; 0.0.0.0 for all of this machine.")
    port: int = helped(8000, "Port to listen on.")
    k: int = helped(8, "Critiques per row, unless a request says otherwise.")
    seed: int = helped(0, "Seed, unless a request says otherwise: equal requests have equal answers.")
    max_k: int = helped(64, "Most critiques per row.")
    max_rows: int = helped(256, "Most rows, or responses, of a request.")
    max_characters: int = helped(400_000, "Most characters of a row.")
    max_megabytes: int = helped(16, "Most megabytes of a request.")
    max_queue: int = helped(2048, "Most rows that wait for the judge. Further requests are answered 503.")
    group_seconds: float = helped(100.0, "How long a response waits for the others of its group, see group_size.")

    def __post_init__(self) -> None:
        for name in ("max_k", "max_rows", "max_characters", "max_megabytes"):
            check_whole(name, getattr(self, name), 1)
        check_whole("max_queue", self.max_queue, self.max_rows, f"at least max_rows={self.max_rows}")


def failure(status: int, message: str, row: int | None = None, cause: str | None = None, **headers: str):
    """An answer without a judgment, with the number of the row and the cause if they are known."""
    detail = {"message": message if row is None else f"Row {row}: {message}", "row": row, "cause": cause}
    return HTTPException(status, detail, {name.replace("_", "-"): value for name, value in headers.items()})


@dataclass(eq=False)
class _Row:
    """A row that waits for its judgment, and the futures of the requests with it."""

    preference: Preference
    occurrence: int
    options: str
    answers: list[asyncio.Future] = field(default_factory=list)
    running: bool = False


@dataclass(eq=False)
class JudgeServer:
    """Judges the rows of all requests: those with equal options in one call, at most `batch_size` at once.

    A judgment depends on its row and the options alone. Endpoints take the body and the parameters of a request.
    """

    pipe: GRMRewardPipeline
    args: ServeArguments = field(default_factory=ServeArguments)
    options: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int | None = None
    api_key: str | None = None
    prices: Sequence[float] | None = None

    def __post_init__(self) -> None:
        self.options = {"k": self.args.k, "seed": self.args.seed, **self.options}
        self.pipe.judging(**self.options)
        self._rows: dict[tuple, _Row] = {}
        self._groups: dict[tuple, tuple[list[str], asyncio.Event]] = {}
        QUEUE.set_function(self._waiting)

    def app(self) -> FastAPI:
        """The application."""
        app = FastAPI(lifespan=self.working, docs_url=None, redoc_url=None, openapi_url=None)
        for endpoint in (self.judge, self.get_reward, self.remote_rm):
            app.add_api_route(f"/{endpoint.__name__}", partial(self.answer, endpoint), methods=["POST"])
        app.add_api_route("/health", self.health)
        app.add_api_route("/metrics", self.metrics)
        return app

    async def judge(self, body: Any, parameters: dict[str, Any]) -> Any:
        """A row, or a list of rows; answers as the pipeline."""
        options, rows = self.find_options(parameters), []
        for number, row in enumerate(body if isinstance(body, list) else [body]):
            with _refusing(number):
                rows.append(Preference.from_row(row, read_labels=False))
        judgments = await self._judgments(rows, options)
        return judgments if isinstance(body, list) else judgments[0]

    async def get_reward(self, body: Any, parameters: dict[str, Any]) -> dict[str, Any]:
        """OpenRLHF's remote reward: lists `query` (prompts with their responses), `prompts` and `labels`."""
        lists = body if isinstance(body, dict) else {}
        columns: list[Any] = [lists.get(name) for name in ("query", "prompts", "labels")]
        if not all(isinstance(column, list) and len(column) == len(columns[0]) for column in columns):
            raise failure(422, "Found another body; expected lists of one length: `query`, `prompts` and `labels`.")
        samples = []
        for query, prompt, label in zip(*columns, strict=True):
            whole = isinstance(query, str) and isinstance(prompt, str) and query.startswith(prompt)
            samples.append({"prompt": prompt, "response": query[len(prompt) :] if whole else None, "label": label})
        rewards = await self._rewards(samples, **parameters)
        return {"rewards": rewards, "scores": rewards, "extra_logs": {}}

    async def remote_rm(self, body: Any, parameters: dict[str, Any]) -> Any:
        """slime's remote reward: `prompt`, `response` and `label` of a sample, or a list of samples; a reward each."""
        rewards = await self._rewards(body if isinstance(body, list) else [body], **parameters)
        return rewards if isinstance(body, list) else rewards[0]

    async def health(self) -> dict[str, Any]:
        """That the server runs, and how many rows wait."""
        return {"status": "ok", "waiting": self._waiting(), "template": portable_template(self.pipe.find_template())}

    async def metrics(self, request: Request) -> Response:
        """What Prometheus reads."""
        self._check_key(request)
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    def find_options(self, parameters: Mapping[str, Any]) -> str:
        """The options of judging, checked, as JSON."""
        if unknown := sorted(parameters.keys() - REQUEST_OPTIONS):
            raise failure(422, f"Found the parameters {unknown}; expected some of {sorted(REQUEST_OPTIONS)}.")
        options = {**self.options, **parameters}
        with _refusing():
            check_whole("k", options["k"], 1)
            self.pipe.judging(**options)
            if options["k"] > self.args.max_k:
                raise ValueError(f"Found k={options['k']}; expected at most {self.args.max_k}.")
        return json.dumps(options, sort_keys=True)

    async def _rewards(
        self, samples, /, *, group_size=1, unreadable=None, label=None, thoughts="hide", **parameters
    ) -> list[float | None]:
        """The reward of each sample, see recipes/README.md for the parameters."""
        for number, sample in enumerate(samples):
            if not isinstance(sample, dict) or not isinstance(sample.get("response"), str):
                raise failure(422, "Found no response behind a prompt; expected both as texts.", number)
        limit = {} if self.pipe.tokenizer is None else {"max_responses_per_prompt": "auto"}
        options, missing = self.find_options({**limit, **parameters}), [None] * len(samples)
        prompts, labels = ([sample.get(name) for sample in samples] for name in ("prompt", "label"))
        queries, references = labels if label == "query" else prompts, labels if label == "reference" else missing
        with _refusing():
            check_whole("group_size", group_size, 1)
            if label not in (None, "query", "reference") or thoughts not in THOUGHTS:
                raise ValueError(f"Found {label=}, {thoughts=}; expected 'query' or 'reference', one of {THOUGHTS}.")
            if not isinstance(unreadable, (int, float, type(None))):
                raise ValueError(f"Found {unreadable=}; expected a number.")
            columns = (queries, references, missing, [sample["response"] for sample in samples])
            groups = group_completions([read_completions(columns, thoughts)])
        wholes = await asyncio.gather(*(self._whole(group, options, group_size) for group in groups))
        rows = {n: replace(whole.row, responses=whole.distinct) for n, whole in enumerate(wholes) if whole.distinct}
        judgments = dict(zip(rows, await self._judgments([*rows.values()], options, drop=True), strict=True))
        rewards, lowest = [unreadable] * len(samples), judge_template(self.pipe.find_template()).score_range[0]
        for number, (group, whole) in enumerate(zip(groups, wholes, strict=True)):
            scores, _ = group_rewards(whole, judgments.get(number), lowest)
            for (_, place), text in zip(group.members, group.texts, strict=True):
                rewards[place] = unreadable if scores is None else scores[text]
        return rewards

    async def _whole(self, group: Group, options: str, size: int) -> Group:
        """The group with the responses of other requests, once there are `size` of them."""
        if len(group.texts) >= size:
            return group
        key = (options, size, conversation_text(group.row.query), group.row.reference)
        texts, complete = self._groups.setdefault(key, ([], asyncio.Event()))
        texts += group.texts
        if len(texts) >= size:
            self._groups.pop(key)[1].set()
        try:
            await asyncio.wait_for(complete.wait(), self.args.group_seconds)
        except TimeoutError:
            message = f"Found {len(texts)} responses of a group; expected {size} in {self.args.group_seconds:g} s."
            raise failure(503, message, Retry_After="1") from None
        finally:
            if not complete.is_set():
                for text in group.texts:
                    texts.remove(text)
                if not texts:
                    del self._groups[key]
        return replace(group, texts=sorted(texts))

    def _waiting(self) -> int:
        return sum(not row.running for row in self._rows.values())

    async def _judgments(self, rows: Sequence[Preference], options: str, drop: bool = False) -> list[Any]:
        """The judgments of rows; with `drop`, `None` for rows that are too long or that a server refuses."""
        self._check_size(rows)
        answers: dict[tuple, asyncio.Future] = {}
        for row, occurrence in zip(rows, count_occurrences(rows), strict=True):
            key = (row_key(row), occurrence, options)
            answers[key] = asyncio.get_running_loop().create_future()
            self._rows.setdefault(key, _Row(row, occurrence, options)).answers.append(answers[key])
        self._arrived.set()
        try:
            outcomes = await asyncio.gather(*answers.values())
        finally:  # the rows of a client that is gone leave the queue, unless others wait for them
            for key, answer in answers.items():
                answer.cancel()
                waiting = self._rows.get(key)
                if waiting and not waiting.running and all(other.done() for other in waiting.answers):
                    del self._rows[key]
        for number, outcome in enumerate(outcomes):
            if isinstance(outcome, HTTPException) and not (drop and outcome.status_code == 422):
                detail: Any = outcome.detail
                raise failure(outcome.status_code, detail["message"], number, detail["cause"])
            if isinstance(outcome, Exception) and not isinstance(outcome, HTTPException):
                raise outcome
        return [None if isinstance(outcome, Exception) else outcome for outcome in outcomes]

    def _check_size(self, rows: Sequence[Preference]) -> None:
        if len(rows) > self.args.max_rows:
            raise failure(422, f"Found {len(rows)} rows; expected at most {self.args.max_rows}.")
        for number, row in enumerate(rows):
            size = sum(map(len, (conversation_text(row.query), *row.responses, row.reference or "")))
            if size > self.args.max_characters:
                raise failure(422, f"Found {size} characters; expected {self.args.max_characters} or fewer.", number)
        if (waiting := self._waiting()) + len(rows) > self.args.max_queue:
            message = f"Found {waiting} waiting rows; expected room for {len(rows)} more. Try again later."
            raise failure(503, message, Retry_After="1")

    @asynccontextmanager
    async def working(self, app: FastAPI):
        """Judges while the block runs: one batch at a time, or several over an engine."""
        count, self._arrived = 1 if self.pipe.engine is None else ENGINE_CALLS, asyncio.Event()
        with ThreadPoolExecutor(count, "judge") as threads:
            workers = [asyncio.create_task(self._work(threads)) for _ in range(count)]
            yield
            for worker in workers:
                worker.cancel()

    async def _work(self, threads: ThreadPoolExecutor) -> None:
        while await self._arrived.wait():
            queue = {key: row for key, row in self._rows.items() if not row.running}
            if not queue:
                self._arrived.clear()
                continue
            options = next(iter(queue.values())).options
            most = self.batch_size or max(1, BATCH_CRITIQUES // json.loads(options)["k"])
            batch = dict([(key, row) for key, row in queue.items() if row.options == options][:most])
            for row in batch.values():
                row.running = True
            call = asyncio.get_running_loop().run_in_executor(threads, self._judge_together, [*batch.values()])
            await asyncio.wait([call])
            outcomes = [broken] * len(batch) if (broken := call.exception()) else call.result()
            for key, outcome in zip(batch, outcomes, strict=True):
                for answer in self._rows.pop(key).answers:
                    if not answer.done():
                        answer.set_result(outcome)

    def _judge_together(self, rows: Sequence[_Row]) -> list[Any]:
        """The judgment of each row, or the error because of which it has none."""
        call: Any = partial(self.pipe, batch_size=len(rows), **json.loads(rows[0].options))
        inputs = [row.preference for row in rows], [row.occurrence for row in rows]
        try:
            with metered() as spent:
                judgments, causes = judge_all(call, *inputs, drop=True)
        except EngineError as error:  # whose answer may quote the row of another client
            public = error.reason if error.status is None or len(rows) == 1 else f"Found the status {error.status}."
            return [failure(502, f"The judge's server failed. {public}")] * len(rows)
        except (ArithmeticError, RuntimeError, ValueError) as error:
            if len(rows) > 1:  # one of them may be to blame
                return [outcome for row in rows for outcome in self._judge_together([row])]
            return [failure(422, str(error).removeprefix("Row 0: ")) if isinstance(error, ValueError) else error]
        ROWS.inc(len(judgments))
        cost = sum(spent, Cost())
        JUDGING.inc(cost.seconds)
        MONEY.inc(cost.report(self.prices).get("money", 0.0))
        TOKENS.labels("read").inc(cost.read)
        TOKENS.labels("scored").inc(cost.scored)
        for critique in (critique for judgment in judgments.values() for critique in judgment["critiques"]):
            TOKENS.labels("written").inc(critique["num_tokens"])
            if critique["problem"]:
                UNREADABLE.labels(critique["problem"]).inc()
        for number, cause in causes.items():
            judgments[number] = failure(422, f"The judge cannot read it ({cause}). Shorten or drop it.", cause=cause)
        return [judgments[number] for number in range(len(rows))]

    async def answer(self, endpoint: Callable[..., Coroutine], request: Request) -> Response:
        """The response to a request. Its work ends when its client is gone."""
        started, status = time.perf_counter(), 500
        try:
            self._check_key(request)
            if not 0 < int(request.headers.get("content-length", 0)) <= self.args.max_megabytes * 2**20:
                raise failure(413, f"Found no body, or a larger one; expected up to {self.args.max_megabytes} MB.")
            with _refusing():
                body = await request.json()
            parameters = {name: _parsed(text) for name, text in request.query_params.items()}
            watch = asyncio.create_task(_cancel_with_client(request, asyncio.current_task()))
            try:
                content = await endpoint(body, parameters)
            except asyncio.CancelledError:
                raise failure(499, "The client is gone.") from None
            finally:
                watch.cancel()
            status = 200
            return JSONResponse(content)
        except HTTPException as error:
            status = error.status_code
            raise
        finally:
            SECONDS.labels(request.url.path, status).observe(time.perf_counter() - started)

    def _check_key(self, request: Request) -> None:
        """A key is a bearer token, or the password in a URL, which is all that OpenRLHF and slime can send."""
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        with suppress(ValueError):
            key = base64.b64decode(key).decode().partition(":")[2] if scheme.lower() == "basic" else key
        if self.api_key and not hmac.compare_digest(key.encode(), self.api_key.encode()):
            raise failure(401, "Found another API key, or none.", WWW_Authenticate="Bearer")


@contextmanager
def _refusing(row: int | None = None) -> Iterator[None]:
    """Answers 422 for what is wrong with a row or the parameters."""
    try:
        yield
    except (RecursionError, TypeError, ValueError) as error:
        reason = f"Found a value of another type ({error})." if isinstance(error, TypeError) else str(error)
        raise failure(422, reason, row, getattr(error, "cause", None)) from error


def _parsed(text: str) -> Any:
    with suppress(RecursionError, ValueError):
        return json.loads(text)
    return text


async def _cancel_with_client(request: Request, task: Any) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    task.cancel()


def main(arguments: Sequence[str]) -> None:
    """Serves the judge that the arguments name until SIGTERM, which it obeys when what was begun is answered."""
    from trl import ModelConfig

    parser = inference_parser(ServeArguments, JudgeArguments, ModelConfig, prog="trl-spct serve")
    args, judge_args, model_args = parser.parse_args_and_config(list(arguments))
    pipe = load_judge(judge_args, model_args, PartialState(cpu=not torch.accelerator.is_available()).device)
    guidance = {name: value for name, value in judge_args.guidance.items() if value is not None}
    options = {**judge_args.options(), **guidance}
    server = JudgeServer(pipe, args, options, judge_args.batch_size, os.environ.get(API_KEY), judge_args.prices)
    uvicorn.run(server.app(), host=args.host, port=args.port, timeout_keep_alive=75)
