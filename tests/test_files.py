from __future__ import annotations

from pathlib import Path

import pytest

from slm_interp.errors import CheckpointError, ConversionError, ParityError, SlmInterpError, missing_extra
from slm_interp.files import atomic_path, write_text


def test_a_file_takes_its_name_when_it_is_whole(tmp_path):
    final = tmp_path / "new" / "folder" / "table.csv"
    with atomic_path(final) as temporary:
        temporary.write_text("half")
        assert not final.exists()
        assert temporary.parent == final.parent  # a rename never crosses file systems
        assert temporary.suffix == ".csv"
        temporary.write_text("whole")
    assert final.read_text() == "whole"
    assert list(final.parent.iterdir()) == [final]


def stopped_halfway(path: Path, reason: BaseException) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("ne")
        raise reason


@pytest.mark.parametrize("reason", [RuntimeError("halfway"), KeyboardInterrupt()])
def test_an_error_or_an_interrupt_leaves_the_old_file_and_nothing_half_written(tmp_path, reason):
    final = tmp_path / "page.html"
    write_text(final, "old")
    with pytest.raises(type(reason)):
        stopped_halfway(final, reason)
    assert final.read_text() == "old"
    assert list(tmp_path.iterdir()) == [final]


def test_a_write_that_never_finished_leaves_no_file(tmp_path):
    with pytest.raises(RuntimeError):
        stopped_halfway(tmp_path / "page.html", RuntimeError())
    assert list(tmp_path.iterdir()) == []


def test_text_is_written_as_utf8(tmp_path):
    write_text(tmp_path / "a.txt", "Zoë → ▁sea")
    assert (tmp_path / "a.txt").read_bytes() == "Zoë → ▁sea".encode()


def test_every_refusal_is_a_value_error_and_a_damaged_checkpoint_a_failed_conversion():
    assert issubclass(SlmInterpError, ValueError)
    assert issubclass(ParityError, SlmInterpError)
    assert issubclass(CheckpointError, ConversionError)


def test_a_missing_extra_says_what_to_install():
    error = missing_extra("pocketsphinx", "speech")
    assert isinstance(error, ImportError)
    assert str(error) == "pocketsphinx is needed here and is not installed. Install it with: pip install 'slm-interp[speech]'"
