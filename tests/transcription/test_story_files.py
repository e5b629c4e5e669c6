"""Stories in two modalities: the parts that belong together, read as what they are asked for."""

from __future__ import annotations

import re
from itertools import product

import pytest
import torch

from slm_interp import metrics
from slm_interp.errors import SpeechError
from slm_interp.transcription import forced_choice, read_stories
from tests.transcription.test_minimal_pairs import Loud, sound

soundfile = pytest.importorskip("soundfile")
PARTS = {
    "mutual": ("the capital of france", [1, 2, 3]),
    "correct": ("is paris", [4, 5]),
    "incorrect": ("is rome", [6, 7, 8]),
}


@pytest.fixture
def stories(tmp_path):
    for voice, item in product(("ann", "bob"), ("7", "12")):
        for role, (text, units) in PARTS.items():
            path = tmp_path / voice / f"{item}_{role}"
            path.parent.mkdir(exist_ok=True)
            path.with_suffix(".txt").write_text(text + "\n")
            soundfile.write(path.with_suffix(".wav"), sound(units).samples, 16_000)
    return tmp_path


@pytest.mark.parametrize("prompt", ["speech", "text"])
@pytest.mark.parametrize("ending", ["speech", "text"])
def test_prompt_and_endings_are_in_the_modality_asked_for_with_a_marker_between(tiny_slm, stories, prompt, ending):
    found = read_stories(tiny_slm, stories, prompt, ending, quantiser=Loud())
    assert [one.name for one in found] == ["ann/12", "ann/7", "bob/12", "bob/7"]
    assert [one.cluster for one in found] == ["12", "7", "12", "7"]
    markers = {kind: tiny_slm.vocabulary.marker(f"<{kind}>") for kind in ("speech", "text")}
    as_ids = {
        "speech": lambda role: (torch.tensor(PARTS[role][1]) + 11).tolist(),
        "text": lambda role: [one for word in PARTS[role][0].split() for one in tiny_slm.word_ids(word)],
    }
    change = [markers[ending]] if prompt != ending else []
    assert found[0].prompt.tokens.tolist() == [markers[prompt], *as_ids[prompt]("mutual"), *change]
    assert found[0].right.tolist() == as_ids[ending]("correct") and found[0].wrong.tolist() == as_ids[ending]("incorrect")


def test_by_sums_the_choice_is_that_of_whole_sequences(tiny_slm, stories):
    """slamkit scores the prompt too, the same on both sides."""
    choices = read_stories(tiny_slm, stories, "text", "speech", quantiser=Loud())
    table = forced_choice(tiny_slm, choices, "sum", "joint")
    totals = []
    for ids in (choices[0].right, choices[0].wrong):
        tokens = torch.cat([choices[0].prompt.tokens, ids])
        logits = tiny_slm.model(tokens[None], return_type="logits", prepend_bos=False)[0, :-1].detach()
        totals.append(float(metrics.sequence_log_prob(logits, tokens[1:])))
    assert table["margin"].iloc[0] == pytest.approx(totals[0] - totals[1], abs=1e-3)


def test_a_story_with_a_part_missing_or_twice_is_refused(tiny_slm, stories, tmp_path):
    (stories / "ann" / "7_incorrect.txt").unlink()
    with pytest.raises(SpeechError, match=re.escape("Story '7' of 'ann' has no incorrect part as text. Complete it, or remove it.")):
        read_stories(tiny_slm, stories, "speech", "text", quantiser=Loud())
    assert len(read_stories(tiny_slm, stories, "text", "speech", quantiser=Loud())) == 4
    soundfile.write(stories / "bob" / "7_mutual.flac", sound([1]).samples, 16_000)
    with pytest.raises(SpeechError, match=re.escape("are both the mutual part of one story. Remove one.")):
        read_stories(tiny_slm, stories, quantiser=Loud())
    (stories / "ann" / "12_mutual.txt").write_text(" \n")
    with pytest.raises(SpeechError, match="12_mutual.txt is empty"):
        read_stories(tiny_slm, stories, "text", "speech", quantiser=Loud())
    (tmp_path / "none").mkdir()
    with pytest.raises(SpeechError, match="There are no stories in"):
        read_stories(tiny_slm, tmp_path / "none")
