"""Stories across modalities, in slamkit's layout: `<item>_mutual` is the prompt, `<item>_correct` and `<item>_incorrect` end it.

Each part is a sound (`.wav`, `.flac`) and a text (`.txt`); which of them is read is said for the prompt and for the ending. slamkit
(`cross_modal_metric.py`) scores the whole sequence, prompt included; a choice here scores the ending after the prompt. Their
sums differ by the same amount on both sides, so that the choice is the same; means differ, since slamkit's count the prompt's ids.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor
from tqdm import tqdm

from slm_interp import speech
from slm_interp.errors import SpeechError
from slm_interp.model import SpeechTextModel
from slm_interp.prompt import Modality
from slm_interp.speech.quantiser import Quantiser
from slm_interp.transcription.knowledge.choices import Choice
from slm_interp.transcription.knowledge.pair_files import SOUNDS
from slm_interp.utterance import Utterance

SUFFIXES: dict[Modality, tuple[str, ...]] = {"speech": SOUNDS, "text": (".txt",)}
ROLES = ("mutual", "correct", "incorrect")


def read_stories(
    slm: SpeechTextModel,
    folder: str | os.PathLike[str],
    prompt: Modality = "speech",
    ending: Modality = "speech",
    form: str | None = None,
    quantiser: Quantiser | None = None,
) -> list[Choice]:
    """The stories of a folder and its sub-folders as choices after a common prompt, for `forced_choice`; one cluster a story.

    Texts are read with a leading space, as text stands in interleaved training; a marker stands where the modality changes.

    Args:
        prompt, ending: `"speech"` or `"text"`.
        form: prompt form; None is that of the training sequences.
        quantiser: for sounds; None is the one that the checkpoint carries.

    Raises:
        SpeechError: no stories, a part that is missing in its modality or there twice, or an empty text.
        UtteranceError: a family without a marker for the change.
        VocabularyError: a text the tokenizer cannot spell.
    """
    wanted = dict(zip(ROLES, (prompt, ending, ending), strict=True))
    made = []
    for (where, item), parts in tqdm(_stories(Path(folder), wanted).items(), desc="stories", mininterval=5, disable=None):
        name = item if where == "." else f"{where}/{item}"
        asked = _prompt(slm, parts["mutual"], prompt, form, quantiser, name)
        if prompt != ending:
            asked = slm.then(asked, ending)
        right, wrong = (_ending(slm, parts[role], ending, quantiser) for role in ("correct", "incorrect"))
        made.append(Choice(asked, right, wrong, name, item))
    return made


def _stories(folder: Path, wanted: dict[str, Modality]) -> dict[tuple[str, str], dict[str, Path]]:
    """Files by folder and item, then by role, once each role has exactly one."""
    found: dict[tuple[str, str], dict[str, Path]] = {}
    for path in sorted(folder.rglob("*_*")):
        item, _, role = path.stem.rpartition("_")
        if role not in wanted or path.suffix.lower() not in SUFFIXES[wanted[role]]:
            continue
        story = found.setdefault((path.parent.relative_to(folder).as_posix(), item), {})
        if role in story:
            raise SpeechError(f"{path} and {story[role]} are both the {role} part of one story. Remove one.")
        story[role] = path
    for (where, item), story in found.items():
        missing = [role for role in wanted if role not in story]
        if missing:
            raise SpeechError(f"Story {item!r} of {where!r} has no {missing[0]} part as {wanted[missing[0]]}. Complete it, or remove it.")
    if not found:
        raise SpeechError(f"There are no stories in {folder}: files are named {', '.join(f'<item>_{role}' for role in ROLES)}.")
    return found


def _prompt(slm: SpeechTextModel, path: Path, modality: Modality, form: str | None, quantiser: Quantiser | None, name: str) -> Utterance:
    if modality == "speech":
        return speech.utterance(slm, path, quantiser=quantiser, form=form, name=name)
    return slm.text_prompt(_text(path), form=form, name=name)


def _ending(slm: SpeechTextModel, path: Path, modality: Modality, quantiser: Quantiser | None) -> Int[Tensor, " pos"]:
    if modality == "text":
        return slm.text_segment(_text(path)).ids
    bare = speech.utterance(slm, path, quantiser=quantiser).tokens
    return bare[slm.vocabulary.mask("speech")[bare]].to(torch.long)


def _text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        raise SpeechError(f"{path} cannot be read as UTF-8 text: {error}") from error
    if not text:
        raise SpeechError(f"{path} is empty.")
    return " " + text
