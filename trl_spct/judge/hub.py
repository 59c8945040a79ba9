# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Pushes to the Hub that lose nothing: one that fails says where the result lies and how to push it again."""

import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError


class PushError(RuntimeError):
    """A push that failed. What was to be pushed is whole, on this machine; the message says how to push it again."""


# What a run leaves beside its model and does not belong into a model's repository: rows and critiques, manifests that
# name places on this machine, pickled arguments, which hold those places and `hub_token`, and the frozen adapter that
# TRL keeps as the KL reference of another.
_PRIVATE = ("/trajectories/", "/fresh/", "/rows/", "/judgments/", "/ref/", "training_args.bin")
LEFT_OUT = ("_*", "checkpoint-*")  # by TRL's trainers


def keep_private(folder: str | os.PathLike) -> None:
    """Writes a `.gitignore`, which uploads to the Hub obey, into an output folder; one that is there stays."""
    path = Path(folder, ".gitignore")
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(_PRIVATE) + "\n", encoding="utf-8")


def push_command(
    repo_id: str,
    folder: str | os.PathLike,
    repo_type: str = "model",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    private: bool | None = None,
    revision: str | None = None,
) -> str:
    """What a shell pushes a folder with; the repository is created if it is not there.

    Args:
        repo_id (`str`), folder (`str` or path), repo_type (`str`): What goes where.
        include, exclude (sequences of `str`, *optional*): Patterns of files, as for `hf upload`.
        private (`bool`, *optional*): Whether a new repository is private.
        revision (`str`, *optional*): A branch other than `main`.
    """
    words = ["hf", "upload", repo_id, os.path.abspath(folder), "."]
    words += [] if repo_type == "model" else ["--repo-type", repo_type]
    words += [word for pattern in include for word in ("--include", pattern)]
    words += [word for pattern in exclude for word in ("--exclude", pattern)]
    words += (["--private"] if private else []) + (["--revision", revision] if revision else [])
    return shlex.join(words)


def model_push_command(repo_id: str, args) -> str:
    """[`push_command`] for what a trainer has saved in its output folder."""
    return push_command(
        repo_id, args.output_dir, exclude=LEFT_OUT, private=args.hub_private_repo, revision=args.hub_revision
    )


@contextmanager
def pushing(repo_id: str, what: str, again: str) -> Iterator[None]:
    """Whatever the Hub, the network or the disk does in here becomes a [`PushError`] that says what to do.

    Args:
        repo_id (`str`): Where to.
        what (`str`): What is pushed and where it stays, for the message.
        again (`str`): A command or a call that pushes it again.
    """
    try:
        yield
    except (HTTPError, OSError, ValueError, RuntimeError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        login = "Log in with `hf auth login`, as a user who may write there, and then p" if status == 401 else "P"
        raise PushError(
            f"Could not push to {repo_id}: {type(error).__name__}: {str(error).strip()}\n"
            f"Nothing is lost: {what}. {login}ush again with\n    {again}"
        ) from error


def push_folder(
    folder: str | os.PathLike,
    repo_id: str,
    repo_type: str = "dataset",
    message: str = "Upload",
    include: Sequence[str] = (),
    private: bool | None = None,
    token: str | None = None,
    before: Callable[[str], None] | None = None,
) -> str:
    """Pushes a folder, or what `include` says of it.

    Args:
        folder (`str` or path): What is pushed.
        repo_id (`str`): Where to; the repository is created if it is not there.
        repo_type (`str`, *optional*, defaults to `"dataset"`): Or `"model"`.
        message (`str`, *optional*): Of the commit.
        include (sequence of `str`, *optional*): Patterns of the files to push; all by default.
        private (`bool`, *optional*): Whether a new repository is private; as the account has it by default.
        token (`str`, *optional*): The one that is logged in with by default.
        before (`Callable`, *optional*): Called with the full name of the repository before anything is uploaded.

    Returns:
        `str`: address of the commit.

    Raises:
        [`PushError`]: if it fails; the folder is as it was.
    """
    again = push_command(repo_id, folder, repo_type, include, private=private)
    with pushing(repo_id, f"{os.path.abspath(folder)} holds it all", again):
        return upload(
            folder, repo_id, repo_type, message, private, token, before, allow_patterns=list(include) or None
        )


def upload(
    folder: str | os.PathLike,
    repo_id: str,
    repo_type: str,
    message: str,
    private: bool | None = None,
    token: str | None = None,
    before: Callable[[str], None] | None = None,
    **options: Any,
) -> str:
    """Creates a repository, if it is not there, and uploads a folder.

    Args:
        folder, repo_id, repo_type, message, private, token: See [`push_folder`].
        before (`Callable`, *optional*): Called with the full name of the repository before anything is uploaded.
        **options: For [`~huggingface_hub.HfApi.upload_folder`].

    Returns:
        `str`: address of the commit.
    """
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True).repo_id
    if before is not None:
        before(repo_id)
    commit = api.upload_folder(
        repo_id=repo_id, repo_type=repo_type, folder_path=Path(folder), commit_message=message, **options
    )
    return commit.commit_url
