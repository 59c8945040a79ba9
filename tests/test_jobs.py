# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Jobs resume, never mix two runs in a folder, and leave nothing half written."""

import errno
import json
import os
import subprocess
import sys
import threading
from datetime import date

import pytest
from datasets import Dataset, Features, List, Value
from huggingface_hub.utils import DEFAULT_IGNORE_PATTERNS, filter_repo_objects

from trl_spct import jobs
from trl_spct.jobs import MANIFEST, FolderInUseError, ShardedJob, claim_folder, locked, stored_cost, write_json
from trl_spct.judge.costs import spend

FEATURES = Features({"row": Value("int64"), "scores": List(List(Value("int64"))), "text": Value("string")})


def records(rows):
    return [{"row": i, "scores": [[i, 1], None], "text": f"é{i}\n"} for i in rows]


def job(folder, num_rows=7, rows_per_shard=3, **settings):
    return ShardedJob(folder, num_rows, rows_per_shard, FEATURES, {"kind": "test", **settings})


# --- manifests ---


def test_a_folder_is_claimed_and_found_again(tmp_path):
    settings = {"model": "judge-é", "k": 8, "orders": (1, 2), "nothing": None}
    folder = claim_folder(tmp_path / "a" / "b", settings)
    assert folder == tmp_path / "a" / "b"
    assert json.loads((folder / MANIFEST).read_text(encoding="utf-8")) == {
        **settings,
        "orders": [1, 2],
        "started_on": date.today().isoformat(),
    }
    before = (folder / MANIFEST).stat().st_mtime_ns
    assert claim_folder(str(folder), dict(reversed(settings.items()))) == folder
    assert (folder / MANIFEST).stat().st_mtime_ns == before, "a restart writes nothing"


def test_other_settings_are_refused_by_name(tmp_path):
    claim_folder(tmp_path, {"k": 8, "model": "judge", "seed": 0})
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(FileExistsError) as caught:
        claim_folder(tmp_path, {"k": 16, "model": "judge", "temperature": 0.5, "seed": 0})
    message = str(caught.value)
    assert "k: 8 there, 16 now" in message and "temperature: None there, 0.5 now" in message
    assert "model" not in message and "seed" not in message
    assert json.loads((tmp_path / MANIFEST).read_text())["k"] == 8, "the run that is there stays"


def test_json_is_whole_or_absent(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    write_json(path, {"a": [1, "é"]})
    assert path.read_text(encoding="utf-8").endswith("}\n") and "é" in path.read_text(encoding="utf-8")
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    monkeypatch.setattr(os, "replace", lambda *paths: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_json(path, {"a": 2})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": [1, "é"]}


# --- shards ---


def test_rows_in_order_with_their_types(tmp_path):
    done = list(job(tmp_path).run(records))
    assert done == [range(0, 3), range(3, 6), range(6, 7)]
    stored = job(tmp_path).read()
    assert stored.features == FEATURES and list(stored) == records(range(7))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".cache", MANIFEST, "shard-00000.parquet", "shard-00001.parquet", "shard-00002.parquet",
    ]  # fmt: skip


def test_several_records_per_row_and_columns_of_none(tmp_path):
    def work(rows):
        return [{"row": i, "scores": None, "text": None} for i in rows for _ in range(i + 1)]

    list(job(tmp_path, 3, 2).run(work))
    assert job(tmp_path, 3, 2).read()["row"][:] == [0, 1, 1, 2, 2, 2]
    assert job(tmp_path, 3, 2).read().features == FEATURES


def test_a_killed_job_resumes(tmp_path):
    calls = []

    def dies(rows):
        calls.append(rows)
        if rows.start == 3:
            raise KeyboardInterrupt
        return records(rows)

    with pytest.raises(KeyboardInterrupt):
        list(job(tmp_path).run(dies))
    with pytest.raises(FileNotFoundError):
        job(tmp_path).read()
    list(job(tmp_path).run(lambda rows: calls.append(rows) or records(rows)))
    assert calls == [range(0, 3), range(3, 6), range(3, 6), range(6, 7)], "what was there is not done again"
    assert list(job(tmp_path).read()) == records(range(7))
    assert list(job(tmp_path).run(lambda rows: 1 / 0)) == [range(0, 3), range(3, 6), range(6, 7)]


def test_a_resumed_job_knows_the_cost_of_the_whole(tmp_path):
    def costly(rows):
        spend(read=100 * len(rows), written=len(rows))
        if rows.start == 6 and not resumed:
            raise KeyboardInterrupt
        return records(rows)

    resumed = []
    assert stored_cost(tmp_path) is None
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            list(job(tmp_path).run(costly))
        assert (stored_cost(tmp_path).read, stored_cost(tmp_path).written) == (600, 6)
    resumed.append(True)
    list(job(tmp_path).run(costly))
    cost = stored_cost(tmp_path)
    assert (cost.read, cost.written, cost.scored) == (700, 7, 0) and cost.seconds > 0
    assert list(job(tmp_path).read()) == records(range(7)) and stored_cost(tmp_path) == cost
    (path, rows), *_ = job(tmp_path).shards
    Dataset.from_list(records(rows), features=FEATURES).to_parquet(path)
    assert stored_cost(tmp_path) is None, "of a version that did not count"


def test_a_kill_while_writing_leaves_no_shard(tmp_path, monkeypatch):
    claimed = job(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(jobs.os, "replace", lambda *paths: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            list(claimed.run(records))
    assert not list(tmp_path.glob("*.parquet"))
    list(job(tmp_path).run(records))
    assert list(job(tmp_path).read()) == records(range(7))


def test_processes_share_the_shards(tmp_path):
    done = [list(job(tmp_path).run(records, index, 2)) for index in range(2)]
    assert done == [[range(0, 3), range(6, 7)], [range(3, 6)]]
    assert list(job(tmp_path).read()) == records(range(7))


def test_more_processes_than_shards(tmp_path):
    done = [list(job(tmp_path, 2, 1).run(records, index, 4)) for index in range(4)]
    assert done == [[range(0, 1)], [range(1, 2)], [], []]


def test_shards_in_work_at_once(tmp_path):
    started = threading.Barrier(2, timeout=60)

    def meets(rows):
        if rows.stop <= 6:
            started.wait()  # passes only where two shards are in work at once
        return records(rows)

    assert sorted(job(tmp_path).run(meets, concurrency=2), key=lambda rows: rows.start) == [
        *(range(0, 3), range(3, 6), range(6, 7)),
    ]
    assert list(job(tmp_path).read()) == records(range(7))
    assert list(job(tmp_path).run(lambda rows: 1 / 0, concurrency=2)) == [range(0, 3), range(3, 6), range(6, 7)]


def test_when_one_of_several_shards_fails_the_others_are_kept_and_no_more_are_begun(tmp_path):
    begun, failed = threading.Event(), threading.Event()

    def fails(rows):
        if rows.start == 0:
            begun.wait(60)
            failed.set()
            raise ConnectionError("gone")
        begun.set()
        failed.wait(60)
        return records(rows)

    with pytest.raises(ConnectionError, match="gone"):
        list(job(tmp_path, 12).run(fails, concurrency=2))
    assert [path.name for path in tmp_path.glob("*.parquet")] == ["shard-00001.parquet"]
    assert job(tmp_path, 12).num_missing == 3
    list(job(tmp_path, 12).run(records, concurrency=3))
    assert job(tmp_path, 12).num_missing == 0
    assert list(job(tmp_path, 12).read()) == records(range(12))


def test_records_are_mapped_from_disk_and_follow_the_shards(tmp_path):
    list(job(tmp_path).run(records))
    stored = job(tmp_path).read()
    (arrow,) = (tmp_path / ".cache" / "huggingface").glob("*.arrow")
    assert [file["filename"] for file in stored.cache_files] == [str(arrow)]
    job(tmp_path).read()
    assert list(arrow.parent.glob("*.arrow")) == [arrow], "made once"
    (tmp_path / "shard-00001.parquet").unlink()
    list(job(tmp_path).run(lambda rows: [{**record, "text": "again"} for record in records(rows)]))
    assert job(tmp_path).read()["text"][2:7] == ["é2\n", "again", "again", "again", "é6\n"]


def test_what_killed_starts_left_beside_a_shard_goes_with_it(tmp_path):
    claimed = job(tmp_path)
    for name in ("shard-00000.99.partial", "shard-00000.samples.partial", "shard-00001.99.partial"):
        (tmp_path / name).write_text("half")
    next(claimed.run(records))
    assert [path.name for path in tmp_path.glob("*.partial")] == ["shard-00001.99.partial"]


def test_other_jobs_are_refused(tmp_path):
    next(job(tmp_path, seed=0).run(records))
    for other, name in (
        (lambda: job(tmp_path, seed=1), "seed: 0 there, 1 now"),
        (lambda: job(tmp_path, num_rows=8, seed=0), "rows: 7 there, 8 now"),
        (lambda: job(tmp_path, rows_per_shard=2, seed=0), "rows_per_shard: 3 there, 2 now"),
    ):
        with pytest.raises(FileExistsError, match=name):
            other()


def test_no_records(tmp_path):
    list(job(tmp_path / "some", 4, 2).run(lambda rows: records(rows) if rows.start == 2 else []))
    assert list(job(tmp_path / "some", 4, 2).read()) == records(range(2, 4))
    list(job(tmp_path / "none", 4, 2).run(lambda rows: []))
    stored = job(tmp_path / "none", 4, 2).read()
    assert stored.features == FEATURES and len(stored) == 0


def test_no_rows(tmp_path):
    assert list(job(tmp_path, 0).run(records)) == []
    assert job(tmp_path, 0).read().features == FEATURES and len(job(tmp_path, 0).read()) == 0


@pytest.mark.parametrize("rows_per_shard", [0, -1])
def test_shards_hold_rows(rows_per_shard, tmp_path):
    with pytest.raises(ValueError, match=f"rows_per_shard={rows_per_shard}"):
        job(tmp_path / "new", rows_per_shard=rows_per_shard)
    assert not (tmp_path / "new").exists()


def test_a_run_that_wrote_nothing_does_not_claim_its_folder(tmp_path):
    with pytest.raises(ZeroDivisionError):
        list(job(tmp_path, option="a").run(lambda rows: 1 / 0))
    list(job(tmp_path, option="b").run(records))
    assert json.loads((tmp_path / MANIFEST).read_text())["option"] == "b"
    with pytest.raises(FileExistsError, match="option: 'b' there, 'a' now"):
        job(tmp_path, option="a")


# --- locks ---


def test_two_runs_do_not_write_into_one_folder(tmp_path):
    def second(rows):
        with pytest.raises(FolderInUseError, match="in use by another run; .* Wait for that run, stop it, or choose"):
            list(job(tmp_path).run(lambda rows: pytest.fail("worked")))
        return records(rows)

    assert len(list(job(tmp_path).run(second))) == 3
    assert len(list(job(tmp_path).run(records))) == 3, "released at the end"


def test_a_failing_run_releases_its_folder(tmp_path):
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        1 / 0  # noqa: B018
    with locked(tmp_path):
        pass


def test_the_processes_of_one_run_share_a_folder(tmp_path):
    with locked(tmp_path), locked(tmp_path, 1), locked(tmp_path, 2):
        with pytest.raises(FolderInUseError), locked(tmp_path):
            pass


HOLDER = """
import sys, time
from trl_spct.jobs import locked

with locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(FolderInUseError, match="in use by another run"), locked(tmp_path):
        pass
    holder.kill()
    holder.wait()
    with locked(tmp_path):
        pass
    holder.stdout.close()


def test_a_folder_that_cannot_be_locked(tmp_path, monkeypatch, caplog):
    """Some network file systems know no locks."""

    def refuse(lock, *args, **kwargs):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(jobs.FileLock, "acquire", refuse)
    assert list(job(tmp_path).run(records)) == [range(0, 3), range(3, 6), range(6, 7)]
    assert "No locks available" in caplog.text


def test_a_lock_of_a_trainers_folder_is_not_pushed(tmp_path):
    """It is in the folder that `upload_folder` leaves out."""
    (tmp_path / "config.json").write_text("{}")
    with locked(tmp_path, 1), locked(tmp_path):
        paths = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()]
        assert [*filter_repo_objects(paths, ignore_patterns=DEFAULT_IGNORE_PATTERNS)] == ["config.json"]
