"""Suites of minimal pairs in the layouts slamkit reads: which file is right, which is wrong, and which belong together.

| layout | files | right, wrong |
|---|---|---|
| `swuggy`, `storycloze` | `<number>_<anything>` | an even number, the odd one after it |
| `sblimp` | `<number>+<anything>` | likewise |
| `salmon` | `<part>/sample_<item>_<k>` | k = 0, k = 1; others are not used |
| `named` | `<item>_correct`, `<item>_incorrect` | as they say; `<item>_mutual` is not used here |

slamkit (`modelling_metric.py`, commit 388b402) sorts the files of a folder by number and takes neighbours, so that one file too
many shifts every pair after it without a word. Here a pair is what its names say, each folder by itself; a file without its
partner, or two that claim one place, are refused. Where nothing is amiss the pairs are slamkit's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath

import torch
from tqdm import tqdm

from slm_interp import speech
from slm_interp.errors import SpeechError
from slm_interp.model import SpeechTextModel
from slm_interp.speech.quantiser import Quantiser
from slm_interp.speech.slamkit_files import read_features, read_tokens
from slm_interp.transcription.knowledge.minimal_pairs import Pair
from slm_interp.utterance import Utterance

SOUNDS = (".wav", ".flac")
RIGHT, WRONG = "right", "wrong"


@dataclass(frozen=True)
class Part:
    """What a file name says: the item it belongs to and its role; a role other than right and wrong is not used."""

    item: str
    role: str


@dataclass(frozen=True)
class Layout:
    """How a suite names its files.

    Args:
        name: what the user asks for.
        part: from the stem of a file to what it is, or None for a name that is none of this layout.
        shape: what names look like, for messages.
        shared_items: one item number in several folders is the same item (a story in several voices), and one cluster.
    """

    name: str
    part: Callable[[str], Part | None]
    shape: str
    shared_items: bool = False


def _numbered(separator: str) -> Callable[[str], Part | None]:
    def part(stem: str) -> Part | None:
        first = stem.split(separator)[0]
        if not re.fullmatch("[0-9]{1,9}", first):
            return None
        return Part(str(int(first) // 2), WRONG if int(first) % 2 else RIGHT)

    return part


def _salmon(stem: str) -> Part | None:
    match = re.fullmatch("sample_([0-9]{1,9})_([0-9]{1,9})", stem)
    return match and Part(str(int(match[1])), {0: RIGHT, 1: WRONG}.get(int(match[2]), "further"))


def _named(stem: str) -> Part | None:
    match = re.fullmatch("(.+)_(correct|incorrect|mutual)", stem)
    return match and Part(match[1], {"correct": RIGHT, "incorrect": WRONG}.get(match[2], match[2]))


LAYOUTS: Mapping[str, Layout] = {
    one.name: one
    for one in (
        Layout("swuggy", _numbered("_"), "<number>_<anything>"),
        Layout("sblimp", _numbered("+"), "<number>+<anything>"),
        Layout("storycloze", _numbered("_"), "<number>_<anything>", shared_items=True),
        Layout("salmon", _salmon, "sample_<item>_<k>"),
        Layout("named", _named, "<item>_correct, <item>_incorrect", shared_items=True),
    )
}


def read_pairs(
    slm: SpeechTextModel, source: str | os.PathLike[str], layout: str, form: str | None = None, quantiser: Quantiser | None = None
) -> list[Pair]:
    """The pairs of a suite, by folder and item.

    Args:
        source: a folder of sounds (`.wav`, `.flac`; sub-folders included), a `features.jsonl` or a `tokens.jsonl` of slamkit
            that was made of one. Units of a file are taken as they are: name the quantiser they came from when loading the model.
        layout: one of `LAYOUTS`.
        form: prompt form. slamkit scores units without a marker: `"bare"` of an interleaved model, `"closed"` of one of speech alone.
        quantiser: for sounds; None is the one that the checkpoint carries.

    Raises:
        SpeechError: no such layout, names that are none of it, an item without its right or wrong file, two files for one place.
    """
    chosen = _layout(layout)
    return list(_pairs(_utterances(slm, Path(source), chosen, form, quantiser), chosen))


def _layout(name: str) -> Layout:
    if name not in LAYOUTS:
        raise SpeechError(f"No layout {name!r}; there are {', '.join(LAYOUTS)}.")
    return LAYOUTS[name]


def paired_files(paths: list[PurePath], layout: Layout) -> dict[tuple[str, str], dict[str, PurePath]]:
    """Files by folder and item, then by role, once every item is known to have exactly one that is right and one that is wrong.

    Raises:
        SpeechError: as in `read_pairs`.
    """
    found: dict[tuple[str, str], dict[str, PurePath]] = {}
    for path in sorted(paths):
        part = layout.part(path.stem)
        if part is None:
            raise SpeechError(f"{path} is not named as {layout.name} names its files: {layout.shape}. Move it elsewhere.")
        if part.role not in (RIGHT, WRONG):
            continue
        item = found.setdefault((path.parent.as_posix(), part.item), {})
        if part.role in item:
            raise SpeechError(f"{path} and {item[part.role]} both claim to be the {part.role} one of item {part.item}. Remove one.")
        item[part.role] = path
    for (folder, name), item in found.items():
        for role in (RIGHT, WRONG):
            if role not in item:
                (there,) = item.values()
                raise SpeechError(
                    f"Item {name} of {folder!r} has no {role} file: {there} stands alone. Pairs are what their names say; complete it, or "
                    "remove it."
                )
    if not found:
        raise SpeechError(f"There are no files to pair; {layout.name} names them {layout.shape}.")
    return dict(sorted(found.items(), key=lambda entry: (entry[0][0], len(entry[0][1]), entry[0][1])))


def _utterances(
    slm: SpeechTextModel, source: Path, layout: Layout, form: str | None, quantiser: Quantiser | None
) -> dict[tuple[str, str], dict[str, Utterance]]:
    if source.is_dir():
        files: list[PurePath] = [one.relative_to(source) for one in source.rglob("*") if one.suffix.lower() in SOUNDS]
        items = paired_files(files, layout)
        return {
            key: {role: speech.utterance(slm, source / path, quantiser=quantiser, form=form, name=str(path)) for role, path in item.items()}
            for key, item in tqdm(items.items(), desc="sounds", mininterval=5, disable=None)
        }
    units = units_by_file(source)
    shared = os.path.commonpath([PurePath(name).parent for name in units]) if units else ""
    names: dict[PurePath, str] = {PurePath(os.path.relpath(name, shared or ".")): name for name in units}
    items = paired_files(list(names), layout)
    return {key: {role: of_units(slm, units[names[path]], form, str(path)) for role, path in item.items()} for key, item in items.items()}


def units_by_file(path: str | os.PathLike[str]) -> dict[str, tuple[int, ...]]:
    """Units by file name, of a `features.jsonl` or of a `tokens.jsonl` with speech alone.

    Raises:
        SpeechError: no such file, a damaged line, or one with written words in it.
    """
    try:
        with open(path, encoding="utf-8") as file:
            tokens = '"audio_repr"' in next((line for line in file if line.strip()), "")
    except (OSError, UnicodeDecodeError) as error:
        raise SpeechError(f"{path} is neither a folder of sounds nor a features.jsonl or tokens.jsonl: {error}") from error
    if not tokens:
        return {name: tuple(one.units.tolist()) for name, one in read_features(path).items()}
    found = {}
    for name, string in read_tokens(path).items():
        if any(isinstance(segment, speech.TextSegment) for segment in string.segments):
            raise SpeechError(f"{path}: the string of {name!r} has written words in it; minimal pairs are speech alone.")
        found[name] = string.units
    return found


def of_units(slm: SpeechTextModel, units: tuple[int, ...], form: str | None, name: str) -> Utterance:
    """An utterance of units whose times are not known: all its edges are 0 s."""
    edges = torch.zeros(len(units) + 1)
    return slm.speech_prompt(torch.tensor(units), edges, quantiser=slm.vocabulary.quantiser, form=form, name=name)


def _pairs(items: Mapping[tuple[str, str], Mapping[str, Utterance]], layout: Layout) -> list[Pair]:
    made = []
    for (folder, item), sides in items.items():
        group = "" if folder == "." else folder
        name = f"{group}/{item}" if group else item
        made.append(Pair(sides[RIGHT], sides[WRONG], name, item if layout.shared_items else name, group))
    return made
