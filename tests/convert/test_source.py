"""What a user names: folders, hub ids, tokenizers, numbers of units; each mistake with its sentence, nothing from the network."""

from __future__ import annotations

from pathlib import Path

import pytest

from slm_interp.convert import load
from slm_interp.convert.checkpoint import Checkpoint
from slm_interp.errors import CheckpointError, ConversionError
from tests.convert.refusal import refused
from tests.replicas import N_UNITS, VARIANTS, text_tokenizer, write_slamkit

RAW = VARIANTS["llama"]
SINGLE = "model.safetensors"


# -- tokenizer and units ----------------------------------------------------------------------------------


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    write_slamkit(tmp_path, RAW, vocab_size=11 + N_UNITS + 2)
    refused(
        tmp_path,
        r"^The embedding has 33 rows; this tokenizer's 4 ids, 20 units and 2 markers make 26\. Is it another model's tokenizer, or another number of units",
        ConversionError,
        text_tokenizer=text_tokenizer(["a", "b", "c"]),
    )


def test_an_interleaved_checkpoint_without_its_tokenizer_says_what_to_pass(tmp_path: Path) -> None:
    write_slamkit(tmp_path, RAW, vocab_size=11 + N_UNITS + 2)
    refused(
        tmp_path,
        r"The embedding has 33 rows; a speech-only vocabulary of 20 units has 22\. If the checkpoint is interleaved, pass text_tokenizer=",
        ConversionError,
    )


@pytest.mark.parametrize("n_units", [19, 21, 500, None])
def test_another_number_of_units_is_refused(folder: Path, n_units: int | None) -> None:
    refused(folder, "The embedding has 22 rows; a speech-only vocabulary of", ConversionError, n_units=n_units)


def test_a_tokenizer_that_is_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    write_slamkit(tmp_path / "model", RAW, vocab_size=11 + N_UNITS + 2)
    refused(tmp_path / "model", "^No tokenizer could be loaded from ", ConversionError, text_tokenizer=str(tmp_path / "nothing"))


# -- names ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["no-such-folder", "a/b/c", "./missing", "/missing", "../missing", "owner/name/", "", "owner/na me"])
def test_a_name_that_is_neither_folder_nor_organism_nor_hub_id_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError):
        load(name if name else "''")


def test_a_hub_id_that_cannot_be_had_says_so_without_a_network() -> None:
    refused("nobody-at-all/no-such-model", r"^'nobody-at-all/no-such-model' is no local folder, and the hub did not give it: ")


def test_a_file_is_no_folder(folder: Path) -> None:
    refused(folder / SINGLE, "is no folder, no packaged organism")
    with pytest.raises(CheckpointError, match="^Wanted a checkpoint folder; "):
        Checkpoint(folder / SINGLE)


def test_a_hub_id_is_fetched_by_name_and_only_the_files_that_are_read(sharded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, list[str]]] = []

    def snapshot_download(name: str, *, allow_patterns: list[str], **options: object) -> str:
        asked.append((name, allow_patterns))
        return str(sharded)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert load("slprl/some-model", n_units=N_UNITS).model.cfg.n_layers == RAW["num_hidden_layers"]
    ((name, patterns),) = asked
    assert name == "slprl/some-model"
    assert "*.safetensors" in patterns and not any(pattern.endswith((".bin", ".py", ".pt", "*")) for pattern in patterns)


def test_a_tokenizer_that_is_handed_over_stays_as_it_was(tmp_path: Path) -> None:
    write_slamkit(tmp_path, RAW, vocab_size=11 + N_UNITS + 2)
    mine = text_tokenizer()
    before = (len(mine), mine.pad_token, mine.get_vocab())
    slm = load(tmp_path, mine, n_units=N_UNITS)
    assert len(slm.tokenizer) == 11 + N_UNITS + 2
    assert (len(mine), mine.pad_token, mine.get_vocab()) == before
