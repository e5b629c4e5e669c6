"""What every test shares: no network, one thread, fixed seeds, and two tiny models loaded through the front door."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"

import numpy as np
import pytest
import torch
from hypothesis import settings
from jaxtyping import config

from slm_interp.convert import load
from slm_interp.hooked.installed import MAJOR, VERSION
from slm_interp.model import SpeechTextModel
from tests.replicas import N_UNITS, VARIANTS, text_tokenizer, write_slamkit
from tests.versions import ABSENT

torch.set_num_threads(1)
settings.register_profile("same every time", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("same every time")


def pytest_report_header() -> str:
    return f"TransformerLens {VERSION}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what `tests.versions` says the installed TransformerLens does not have, with its reason."""
    absent = ABSENT[MAJOR]
    for item in items:
        for name in {item.name, getattr(item, "originalname", item.name)} & set(absent):
            item.add_marker(pytest.mark.skip(reason=f"TransformerLens {VERSION}: {absent[name]}"))


@pytest.fixture(autouse=True)
def _seeds() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - for libraries that draw from it
    torch.manual_seed(0)


@pytest.fixture
def as_users_run_it() -> Iterator[None]:
    """Without the shape checks of the tests, which would speak before the package's own refusals."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def tiny_slm(tmp_path_factory: pytest.TempPathFactory) -> SpeechTextModel:
    """An interleaved slamkit checkpoint on Llama: text, units of the codebook "tiny", `<speech>` and `<text>`."""
    tokenizer = text_tokenizer()
    folder = write_slamkit(tmp_path_factory.mktemp("interleaved"), VARIANTS["llama"], vocab_size=len(tokenizer) + N_UNITS + 2)
    return load(folder, text_tokenizer=tokenizer, n_units=N_UNITS, quantiser="tiny")


@pytest.fixture(scope="session")
def speech_only_slm(tmp_path_factory: pytest.TempPathFactory) -> SpeechTextModel:
    """A speech-only slamkit checkpoint on OPT, short of context: `<PAD>`, `<S>` and units of an undeclared codebook."""
    folder = write_slamkit(tmp_path_factory.mktemp("speech_only"), VARIANTS["opt"], vocab_size=N_UNITS + 2)
    return load(folder, n_units=N_UNITS)
