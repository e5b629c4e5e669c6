"""The converter's tests run without a network: whoever tries gets an error that names it."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from tests.replicas import VARIANTS, write_slamkit


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: socket.socket, address: Any) -> None:
        raise AssertionError(f"A test reached for the network: {address}")

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_slamkit(tmp_path / "single", VARIANTS["llama"])


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return write_slamkit(tmp_path / "sharded", VARIANTS["llama"], shards=3)
