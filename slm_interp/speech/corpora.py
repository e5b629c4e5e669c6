"""Corpora of many clips: a folder of sound and text, slamkit's JSON Lines, a table of Hugging Face `datasets`, or a saved one.

Words and their seconds are looked for in this order, and a clip for which none is found is refused by name:

1. in the record itself: slamkit's `aligned_text`, or the column of a table that is mapped to `words`;
2. beside the sound or the JSON Lines, under the clip's name: `.TextGrid`, `.ctm`, `.json` (slamkit's or Whisper's);
3. a transcript, aligned by force to the sound: `.txt` beside it, a row of `transcripts.json`, `.csv` or `.tsv` in the folder
   (columns `name`, `text` and, where there is one, `answer`), or the column mapped to `text`.

A word that lies inside one unit has no position; such words are left out and counted.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, Final

import pandas as pd
import torch
from tqdm import tqdm

from slm_interp.errors import SlmInterpError, SpeechError, missing_extra
from slm_interp.model import SpeechTextModel
from slm_interp.speech.alignment import align
from slm_interp.speech.audio import resample
from slm_interp.speech.clip import Clip, beside, reader, sound_of, text_of, transcripts, units_of, words_of
from slm_interp.speech.corpus import FILE, Corpus
from slm_interp.speech.quantiser import NO_QUANTISER, Quantiser
from slm_interp.speech.slamkit_files import read_features, read_records, read_tokens
from slm_interp.speech.spans import heard_words, words_to_spans
from slm_interp.speech.units import Units
from slm_interp.utterance import Utterance

SOUNDS: Final = (".wav", ".flac", ".ogg")
SLACK: Final = 0.01  # of a unit's length: Spirit LM says 24.99 a second
COLUMNS: Final = ("name", "audio", "units", "durations", "words", "text", "answer")


def corpus(
    slm: SpeechTextModel,
    source: Sequence[Utterance] | Corpus | pd.DataFrame | str | os.PathLike[str] | Any,
    columns: Mapping[str, str] | None = None,
    quantiser: Quantiser | None = None,
    form: str | None = None,
    answers: Sequence[str] | None = None,
) -> Corpus:
    """A corpus as a model reads it, from whatever it is kept in.

    Args:
        source: utterances; a folder of sounds; a `.jsonl` of slamkit; a `.parquet`, a folder of them, a table or a `datasets.Dataset`; a
            folder that `datasets` saved; or what `Corpus.save` wrote.
        columns: for tables, from some of `COLUMNS` to the table's own names.
        quantiser: what makes the model's units from sound; None is the one that the checkpoint carries. Units read from files are
            taken to be of the codebook the model declares.
        form: prompt form.
        answers: for utterances in memory.

    Raises:
        SpeechError: a source of no known kind, clips without words or without units; file and line are named.
        ImportError: sound to align, or a folder of `datasets`, without the package that does it.
    """
    if isinstance(source, Corpus):
        return source
    if not isinstance(source, str | os.PathLike | pd.DataFrame) and isinstance(source, Sequence):
        utterances: tuple[Utterance, ...] = tuple(slm.check(one) for one in source if isinstance(one, Utterance))
        if len(utterances) < len(source):
            raise SpeechError(f"A corpus in memory is a list of Utterances; {len(source) - len(utterances)} of {len(source)} are none.")
        return Corpus(utterances, None if answers is None else tuple(answers))
    if answers is not None:
        raise SpeechError("answers= belong to utterances in memory; files have theirs in a column or in transcripts.json.")
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if path.name == FILE or (path / FILE).is_file():
            return Corpus.load(slm, path)
        clips, named = list(clips_of(path, slm, columns)), str(path.name)
    else:
        clips, named = list(_of_table(_frame(source), columns, "the table", Path())), "a table"
    return _built(slm, clips, quantiser if quantiser is not None else slm.quantiser, form, named)


def clips_of(path: Path, slm: SpeechTextModel, columns: Mapping[str, str] | None = None) -> Iterator[Clip]:
    """The clips of a folder, a `.jsonl` or a `.parquet`, before a model has heard them.

    Raises:
        SpeechError: as of `corpus`, whose steps these are.
    """
    if path.suffix == ".jsonl" and path.is_file():
        return _of_slamkit(path, slm.vocabulary.quantiser)
    if path.suffix == ".parquet" and path.is_file():
        return _of_table(pd.read_parquet(path), columns, str(path), path.parent)
    if not path.is_dir():
        raise SpeechError(f"{path} is no corpus: give a folder of sounds, a .jsonl of slamkit, a .parquet, or what Corpus.save wrote.")
    if (path / "state.json").is_file():
        return _of_table(_frame(_saved_dataset(path)), columns, str(path), path)
    parquet = sorted(path.rglob("*.parquet"))
    if parquet:
        return _of_table(pd.concat([pd.read_parquet(one) for one in parquet], ignore_index=True), columns, str(path), path)
    return _of_folder(path)


# -- the kinds of sources --------------------------------------------------------------------------------


def _of_folder(folder: Path) -> Iterator[Clip]:
    sounds = sorted(path for path in folder.iterdir() if path.suffix.lower() in SOUNDS)
    if not sounds:
        raise SpeechError(f"{folder} holds no {', '.join(SOUNDS)} and no .parquet. Give the folder the sounds are in.")
    told = transcripts(folder)
    for path in sounds:
        words, text, answer = beside(folder, path.stem, told)
        yield Clip(path.stem, str(path), audio=reader(path), words=words, text=text, answer=answer)


def _of_slamkit(path: Path, quantiser: str | None) -> Iterator[Clip]:
    """`features.jsonl`; or `tokens.jsonl`, which tells no times, beside a `features.jsonl` of the same units."""
    records = dict(read_records(path))
    strings = all("audio_repr" in record and "units" not in record for record in records.values())
    timed = path.with_name("features.jsonl")
    if strings and not timed.is_file():
        raise SpeechError(f"{path} tells how units follow one another and not how long they last. Put its features.jsonl beside it.")
    features = read_features(timed if strings else path, quantiser)
    tokens = read_tokens(path) if strings else {}
    told = transcripts(path.parent)
    for where, record in records.items():
        name = str(record["file_name"])
        if name not in features:
            raise SpeechError(f"{where}: {timed} has no record for {name!r}.")
        if strings and tokens[name].units != tuple(features[name].units.tolist()):
            raise SpeechError(f"{where}: the units of {name!r} are not those of {timed}. Make both from the same sound.")
        stem = PurePath(name).stem
        words, text, answer = beside(path.parent, stem, told)
        if "aligned_text" in record:
            words = words_of(record["aligned_text"], f"{where}, aligned_text")
        sound = next((one for suffix in SOUNDS if (one := path.parent / f"{stem}{suffix}").is_file()), None)
        yield Clip(stem, where, features[name], None if sound is None else reader(sound), words, text, answer)


def _of_table(frame: pd.DataFrame, columns: Mapping[str, str] | None, where: str, folder: Path) -> Iterator[Clip]:
    mapped = dict(columns or {one: one for one in COLUMNS if one in frame})
    unknown = [one for one in mapped if one not in COLUMNS]
    absent = [theirs for theirs in mapped.values() if theirs not in frame]
    if unknown or absent or not ({"audio", "units"} & set(mapped)) or not ({"words", "text"} & set(mapped)):
        raise SpeechError(
            f"columns= maps audio or units, and words or text, and may map {', '.join(COLUMNS)} to columns of {where}, which are "
            f"{', '.join(map(str, frame.columns))}; got {mapped or 'nothing'}."
        )
    for number, row in enumerate(frame.to_dict("records")):
        at = f"{where}, row {number}"
        cell = {ours: row[theirs] for ours, theirs in mapped.items()}
        yield Clip(
            str(cell.get("name", number)),
            at,
            units=units_of(cell, at) if "units" in cell else None,
            audio=sound_of(cell["audio"], at, folder) if "audio" in cell else None,
            words=words_of(cell["words"], f"{at}, {mapped['words']}") if "words" in cell else None,
            text=text_of(cell, "text", at),
            answer=text_of(cell, "answer", at),
        )


def _frame(source: Any) -> pd.DataFrame:
    """A table as it is stored: `datasets` would decode sounds, which takes packages that are not needed here."""
    if isinstance(source, pd.DataFrame):
        return source
    if hasattr(source, "with_format") and hasattr(source, "column_names"):
        return source.with_format("arrow")[:].to_pandas()
    raise SpeechError(f"A corpus is read from utterances, paths, tables and datasets.Dataset; got {type(source).__name__}.")


def _saved_dataset(path: Path) -> Any:
    try:
        from datasets import load_from_disk
    except ImportError as error:
        raise missing_extra("datasets", "datasets") from error
    return load_from_disk(str(path))


# -- from clips to utterances ----------------------------------------------------------------------------


def _built(slm: SpeechTextModel, clips: Sequence[Clip], quantiser: Quantiser | None, form: str | None, source: str) -> Corpus:
    found, counted = [], Counter[str]()
    for clip in tqdm(clips, desc="clips", mininterval=5, disable=None):
        try:
            one, silent = _utterance(slm, clip, quantiser, form)
        except SlmInterpError as error:
            raise error if clip.where in str(error) else type(error)(f"{clip.where}: {error}") from error
        counted["words inside one unit"] += silent
        found.append(one)
    answers = [clip.answer for clip in clips]
    unanswered = [clip.where for clip in clips if clip.answer is None]
    if 0 < len(unanswered) < len(clips):
        raise SpeechError(
            f"{unanswered[0]} has no answer and others have ({len(unanswered)} of {len(clips)} lack theirs). Give all or none."
        )
    given = None if unanswered else tuple(str(one) for one in answers)
    return Corpus(tuple(found), given, dict(+counted), source)


def refuse_rate(slm: SpeechTextModel, units: Units, where: str) -> None:
    """Refuse units from a file that do not last as long as the model's: word times would meet other units. Where nobody declared a rate, all will do.

    Raises:
        SpeechError: shorter units; or of another length, where repeats are not merged.
    """
    book = next(one for one in slm.vocabulary.ranges if one.codebook == 0)
    if book.rate_hz is None:
        return
    lasts = units.durations * units.frame_s * book.rate_hz  # 1 is one unit of the model
    if lasts.min() < 1 - SLACK or (book.merged is not True and lasts.max() > 1 + SLACK):
        each = [f"{frames * units.frame_s:g}" for frames in (units.durations.min(), units.durations.max())]
        raise SpeechError(
            f"{where}: its units last {each[0]} to {each[1]} s; this model has {book.rate_hz:g} a second, "
            f"{'merged where they repeat' if book.merged else 'none merged'}. Durations are counted in frames of {units.frame_s:g} s, so one of its units "
            f"lasts {round(1 / (book.rate_hz * units.frame_s))}. Or are they units of another model?"
        )


def _utterance(slm: SpeechTextModel, clip: Clip, quantiser: Quantiser | None, form: str | None) -> tuple[Utterance, int]:
    """The clip as the model reads it, and how many of its words have no unit."""
    audio = clip.audio() if clip.audio is not None else None
    words = clip.words
    if words is None and (clip.text is None or audio is None):
        lacks = "no words with their seconds, and no transcript" if clip.text is None else "a transcript and no sound to align it to"
        raise SpeechError(
            f"{clip.where} has {lacks}. Put {clip.name}.TextGrid, .ctm or .json beside it, or {clip.name}.txt beside its sound."
        )
    units = clip.units
    if units is None:
        if audio is None or quantiser is None:
            raise SpeechError(f"{clip.where}: its units are made from sound, and {NO_QUANTISER}")
        units = quantiser.encode(resample(audio, quantiser.recipe.sample_rate))
    else:
        refuse_rate(slm, units, clip.where)
    if words is None and audio is not None and clip.text is not None:
        words = align(audio, clip.text)
    told = heard_words(words or (), units)
    return slm.speech_prompt(
        torch.from_numpy(units.units).long(),
        torch.from_numpy(units.edges()).float(),
        words_to_spans(told.words, units),
        audio=audio,
        quantiser=units.quantiser or slm.vocabulary.quantiser,
        form=form,
        name=clip.name,
    ), len(told.without_units)
