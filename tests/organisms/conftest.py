"""A toy organism: the whole way from a recipe to a slamkit folder, in a few seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from slm_interp.organisms.corpus import Document
from slm_interp.organisms.material import Material
from slm_interp.organisms.recipe import Recipe
from slm_interp.organisms.training import prepare, train_organism
from slm_interp.speech.acoustic import AcousticQuantiser
from tests.organisms.toy import CPU, TOY


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    """The toy organism's."""
    return TOY


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy organism's folder; `work` inside it holds speech and checkpoints."""
    return train_organism(TOY, tmp_path_factory.mktemp("toy"), running=CPU, processes=1)


@pytest.fixture(scope="session")
def work(toy: Path) -> Path:
    """The toy organism's working folder."""
    return toy / "work"


@pytest.fixture(scope="session")
def speech_folder(work: Path) -> Path:
    """Where its corpus lies."""
    return work / f"speech-{TOY.speech_key}"


@pytest.fixture(scope="session")
def prepared(work: Path) -> tuple[Material, dict[str, list[Document]], AcousticQuantiser]:
    """What the toy organism was trained and measured on, and its quantiser."""
    return prepare(TOY, work, processes=1)


@pytest.fixture(scope="session")
def material(prepared: tuple[Material, dict[str, list[Document]], AcousticQuantiser]) -> Material:
    """What the toy organism was trained on."""
    return prepared[0]


@pytest.fixture(scope="session")
def heard(prepared: tuple[Material, dict[str, list[Document]], AcousticQuantiser]) -> dict[str, list[Document]]:
    """Its spoken documents, by what they are for."""
    return prepared[1]


@pytest.fixture(scope="session")
def quantiser(prepared: tuple[Material, dict[str, list[Document]], AcousticQuantiser]) -> AcousticQuantiser:
    """Its quantiser."""
    return prepared[2]
