# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""A folder belongs to one configuration: its manifest says which, so that a restart resumes and never mixes runs."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


MANIFEST = "manifest.json"


def claim_folder(
    folder: str | os.PathLike, settings: Mapping[str, Any], recorded: Mapping[str, Any] | None = None
) -> Path:
    """Creates a folder for a run with these settings, or finds that it already holds a run with the same ones.

    Args:
        folder (`str` or path): Where the run writes.
        settings (mapping): JSON-like values that determine what the run produces.
        recorded (mapping, *optional*): Written as `recorded` by the start that creates the folder, and never compared.

    Returns:
        `Path`: the folder.

    Raises:
        `FileExistsError`: if the folder holds a run with other settings, naming each that differs.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    settings = json.loads(json.dumps(settings, ensure_ascii=False))
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        found.pop("recorded", None)
        differing = [name for name in {**found, **settings} if found.get(name) != settings.get(name)]
        if differing:
            changes = "; ".join(f"{name}: {found.get(name)!r} there, {settings.get(name)!r} now" for name in differing)
            raise FileExistsError(
                f"{folder} holds a run with another configuration ({changes}). Choose another output folder, delete "
                "this one, or repeat the run with its configuration to resume it."
            )
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, {**settings, **({"recorded": dict(recorded)} if recorded else {})})
    return folder


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes a JSON file [`in_one_step`]."""
    with in_one_step(path) as partial:
        partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def in_one_step(path: str | os.PathLike) -> Iterator[Path]:
    """A file to write, which then takes the place of `path`.

    A reader, or a restart after a kill, finds the old file or the whole new one.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    yield partial
    os.replace(partial, path)


def rows_digest(rows: Iterable[Any]) -> str:
    """A hash of rows by their `repr`, for a manifest: of what a run reads and of what decides about it."""
    state = hashlib.blake2b(digest_size=16)
    for row in rows:
        state.update(repr(row).encode("utf-8", "surrogatepass"))
    return state.hexdigest()
