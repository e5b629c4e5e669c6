"""A store killed at any moment and gone on with holds what an undisturbed one holds, and never answers another question."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from slm_interp import files
from slm_interp.errors import StoreError
from slm_interp.store import Store, open_store

SETTINGS = {"target": "current", "k": [1, 10], "corpus": "9f2e", "fingerprint": "ab12"}
KEYS = [f"utterance {number}" for number in range(12)]

WRITER = """
import importlib.machinery, sys, types
package = types.ModuleType("slm_interp")  # without the rest of the house, which takes seconds to import
package.__path__ = [sys.argv[1]]
sys.modules["slm_interp"] = package
import numpy as np, pandas as pd
from slm_interp.store import open_store
store = open_store(sys.argv[2], {"target": "current", "k": [1, 10], "corpus": "9f2e", "fingerprint": "ab12"})
print("ready", flush=True)
for key in sys.argv[3].split(","):
    if key not in store:
        number = int(key.split()[-1])
        store.write(key, pd.DataFrame({"number": number, "value": np.random.default_rng(number).normal(size=50_000)}))
print("done", flush=True)
"""


def part(key: str, rows: int = 5) -> pd.DataFrame:
    number = int(key.split()[-1])
    return pd.DataFrame({"number": number, "value": np.random.default_rng(number).normal(size=rows)})


def filled(store: Store, keys: list[str] = KEYS) -> Store:
    for key in keys:
        if key not in store:
            store.write(key, part(key))
    return store


def writer(folder: Path, keys: list[str]) -> subprocess.Popen[str]:
    package = Path(files.__file__).parent
    return subprocess.Popen([sys.executable, "-c", WRITER, package, folder, ",".join(keys)], stdout=subprocess.PIPE, text=True)


@pytest.fixture
def writers() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes of a test, none of which outlives it."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for one in started:
        one.kill()
        one.communicate(timeout=30)


# -- killed ----------------------------------------------------------------------------------------------


def test_a_writer_that_is_killed_again_and_again_leaves_what_an_undisturbed_one_leaves(tmp_path, writers):
    rng = random.Random(0)
    for _ in range(4):
        one = writer(tmp_path / "killed", KEYS)
        writers.append(one)
        assert one.stdout is not None and one.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0, 0.08))
        os.kill(one.pid, signal.SIGKILL)
        one.communicate(timeout=30)
        store = open_store(tmp_path / "killed", SETTINGS)
        for key in store.keys:
            assert len(store.read(key)) == 50_000
    last = writer(tmp_path / "killed", KEYS)
    writers.append(last)
    assert last.communicate(timeout=60)[0] == "ready\ndone\n"
    wanted = pd.concat([part(key, 50_000) for key in KEYS], ignore_index=True)
    pd.testing.assert_frame_equal(open_store(tmp_path / "killed", SETTINGS).frame(KEYS), wanted)


@pytest.mark.parametrize("step", range(8))
def test_stopped_before_any_step_a_store_goes_on(tmp_path, monkeypatch, step):
    """Every file takes its name by `os.replace` (the manifest by a link after it); stop before the first, the second, ..."""
    calls = iter(range(1_000))
    honest = os.replace

    def stopping(source: Path, target: Path) -> None:
        if next(calls) == step:
            raise KeyboardInterrupt
        honest(source, target)

    monkeypatch.setattr(files.os, "replace", stopping)
    with pytest.raises(KeyboardInterrupt):
        filled(open_store(tmp_path / "stopped", SETTINGS))
    monkeypatch.setattr(files.os, "replace", honest)
    found, whole = (filled(open_store(tmp_path / name, SETTINGS)) for name in ("stopped", "whole"))
    assert len(found.keys) == len(KEYS)
    pd.testing.assert_frame_equal(found.frame(), whole.frame())


def test_two_processes_may_write_different_parts(tmp_path, writers):
    writers += [writer(tmp_path, KEYS[::2]), writer(tmp_path, KEYS[1::2])]
    assert [one.communicate(timeout=60)[0] for one in writers] == ["ready\ndone\n"] * 2
    wanted = pd.concat([part(key, 50_000) for key in KEYS], ignore_index=True)
    pd.testing.assert_frame_equal(open_store(tmp_path, SETTINGS).frame(KEYS), wanted)


def test_a_part_that_is_done_is_not_done_again(tmp_path):
    store = filled(open_store(tmp_path, SETTINGS))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "parts").iterdir()}
    filled(open_store(tmp_path, SETTINGS))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "parts").iterdir()} == before
    assert store.keys == tuple(sorted(KEYS))


# -- refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({**SETTINGS, "target": "next"}, 'was made with other settings: target is "current" there and "next" here. Choose'),
        ({**SETTINGS, "k": [1, 50]}, "k is [1, 10] there and [1, 50] here"),
        ({**SETTINGS, "jitter": 2}, "jitter is absent there and 2 here"),
        ({"target": "current"}, 'corpus is "9f2e" there and absent here; fingerprint is "ab12" there and absent here; k is'),
        (
            {**SETTINGS, "a": 1, "b": 1, "c": 1, "d": 1},
            "a is absent there and 1 here; b is absent there and 1 here; c is absent there and 1 here and 1 more.",
        ),
    ],
)
def test_a_folder_made_with_other_settings_is_refused_by_what_differs(tmp_path, settings, sentence):
    filled(open_store(tmp_path, SETTINGS))
    with pytest.raises(StoreError, match=re.escape(sentence)):
        open_store(tmp_path, settings)


def test_settings_are_compared_as_json_keeps_them(tmp_path):
    open_store(tmp_path, {**SETTINGS, "k": (1, 10)})
    assert open_store(tmp_path, SETTINGS).settings == SETTINGS


def test_a_part_that_changed_is_refused(tmp_path):
    store = filled(open_store(tmp_path, SETTINGS))
    broken = next((tmp_path / "parts").glob("utterance-3-*.parquet"))
    broken.write_bytes(broken.read_bytes()[:-1] + b"\0")
    with pytest.raises(StoreError, match=r"Part 'utterance 3' in .* is not what was written: its SHA-256 differs"):
        store.frame()
    broken.unlink()
    with pytest.raises(StoreError, match="or the file is gone"):
        store.read("utterance 3")


def test_a_manifest_that_changed_is_refused(tmp_path):
    open_store(tmp_path, SETTINGS)
    manifest = tmp_path / "manifest.json"
    manifest.write_text(manifest.read_text().replace("9f2e", "0000"))
    with pytest.raises(StoreError, match="or it was changed by hand"):
        open_store(tmp_path, {**SETTINGS, "corpus": "0000"})
    manifest.write_text('{"cut')
    with pytest.raises(StoreError, match="cannot be read as JSON"):
        open_store(tmp_path, SETTINGS)
    manifest.unlink()
    filled(open_store(tmp_path, SETTINGS))
    manifest.unlink()
    with pytest.raises(StoreError, match=r"has parts and no manifest\.json"):
        open_store(tmp_path, SETTINGS)


def test_parts_that_are_not_there_are_refused(tmp_path):
    store = open_store(tmp_path, SETTINGS)
    with pytest.raises(StoreError, match="has no complete part yet"):
        store.frame()
    with pytest.raises(StoreError, match=r"has no complete part 'b'; it has none\. Write it first\."):
        store.read("b")
    with pytest.raises(StoreError, match="A part has a key of one letter or more"):
        store.write("", part("utterance 0"))


# -- kept ------------------------------------------------------------------------------------------------


def test_keys_that_read_alike_are_told_apart(tmp_path):
    store = open_store(tmp_path, SETTINGS)
    keys = ["a/b", "a b", "a-b", "A-b", "é" * 300, "e" * 300]
    for number, key in enumerate(keys):
        store.write(key, pd.DataFrame({"number": [number]}))
    assert store.keys == tuple(sorted(keys)) and list(store.frame(keys)["number"]) == list(range(len(keys)))


def test_a_part_written_again_replaces_the_first(tmp_path):
    store = open_store(tmp_path, SETTINGS)
    store.write("one", pd.DataFrame({"number": [1]}))
    store.write("one", pd.DataFrame({"number": [2, 3]}))
    assert store.keys == ("one",) and list(store.read("one")["number"]) == [2, 3]


def test_a_table_carries_the_settings_and_no_foreign_attributes(tmp_path):
    store = open_store(tmp_path, SETTINGS)
    frame = pd.DataFrame({"number": [1]})
    frame.attrs["of"] = np.float32(1)
    store.write("one", frame)
    assert store.frame().attrs == SETTINGS and store.read("one").attrs == {} and frame.attrs == {"of": np.float32(1)}
