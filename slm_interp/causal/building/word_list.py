"""Cases from a list of words, said by eSpeak or by the user's recordings.

| column | holds |
|---|---|
| `frame` | what is said, with the place of the word between blanks: `the capital of {word} is` |
| `clean`, `corrupted` | the two words that stand there |
| `answer`, `distractor` | what follows each, one word or more |
| `third`, `phonetic`, `semantic` | words for controls; the first and last are found among the other rows of the frame where a cell is empty |
| `carrier` | what the prompts are said to go on with, before they are cut; see below |

1. A prompt is cut from a sentence that goes on with the carrier, which is neither continuation: a sound knows what follows it, so a prompt cut before its
   own answer would give it away. Without a column it is the answer of another row of the frame; where there is none, the row is left out.
2. The continuation is cut from the sentence with its own answer.
3. The corrupted word is spliced into the clean prompt.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import pandas as pd
from jaxtyping import Int
from torch import Tensor
from tqdm import tqdm

from slm_interp.causal.building.cases_built import CASE, Built, LeftOut
from slm_interp.causal.building.sentences import Given, Side, Stock, assembled, before, units_between
from slm_interp.causal.building.speakers import Speaker
from slm_interp.causal.cases import Case, Heard
from slm_interp.errors import PatchingError, SlmInterpError
from slm_interp.model import SpeechTextModel
from slm_interp.utterance import Utterance

SLOT = "{word}"
WANTED = ("frame", "clean", "corrupted", "answer", "distractor")
MAY = ("third", "phonetic", "semantic", "carrier")


@dataclass(frozen=True)
class _Row:
    frame: str
    clean: str
    corrupted: str
    answer: str
    distractor: str
    third: str | None = None
    phonetic: str | None = None
    semantic: str | None = None
    carrier: str | None = None

    @property
    def name(self) -> str:
        return f"{self.frame.replace(SLOT, '_')}: {self.clean} / {self.corrupted}"

    @property
    def slot(self) -> int:
        return self.frame.split().index(SLOT)


def word_list(slm: SpeechTextModel, table: pd.DataFrame | str | os.PathLike[str], say: Speaker, say_again: Speaker | None = None) -> Built:
    """One case a row.

    Args:
        slm: the model; its form of prompts is the speaker's to choose.
        table: with the columns above; or a CSV file.
        say: who says the sentences: `speakers.espeak(slm, quantiser)` or `speakers.recorded(slm, files)`.
        say_again: says the corrupted sentence in another voice.

    Raises:
        PatchingError: columns or rows that are not as above, by number; no case at all.
    """
    rows, left_out, cases = _rows(table), LeftOut(), []
    heard = lru_cache(maxsize=None)(say)
    for row in tqdm(rows, desc="cases", mininterval=5, disable=None):
        try:
            case = _case(slm, row, rows, heard, say_again, left_out)
        except SlmInterpError as error:
            left_out.add(row.name, CASE, str(error))
            continue
        cases += [] if case is None else [case]
    return Built(tuple(cases), left_out.table(), f"a list of {len(rows)} rows")


def _case(slm: SpeechTextModel, row: _Row, rows: Sequence[_Row], say: Speaker, say_again: Speaker | None, left_out: LeftOut) -> Case | None:
    carrier = row.carrier or _carrier(row, rows)
    clean, corrupted = (
        _side(slm, say, row, word, answer, carrier) for word, answer in ((row.clean, row.answer), (row.corrupted, row.distractor))
    )
    other = None
    if say_again is not None:
        try:
            said = _prompt(slm, say_again, row, row.corrupted, carrier)
            other = Heard(said[0], said[0].words[said[1]].span)
        except SlmInterpError as error:
            left_out.add(row.name, "other_voice", str(error))
    stock = Stock(_asked(row.frame, rows), Counter(word for one in rows for word in (one.clean, one.corrupted)))
    return assembled(slm, row.name, (clean, corrupted), stock, Given(row.third, row.phonetic, row.semantic, other), left_out)


def _side(slm: SpeechTextModel, say: Speaker, row: _Row, word: str, answer: str, carrier: str) -> Side:
    prompt, at = _prompt(slm, say, row, word, carrier)
    says = tuple(row.frame.replace(SLOT, word).split())
    return Side(prompt, at, _continuation(say, row, word, answer), answer, says, row.slot)


def _prompt(slm: SpeechTextModel, say: Speaker, row: _Row, word: str, carrier: str) -> tuple[Utterance, int]:
    """The frame with a word, and the number of that word in it."""
    frame = row.frame.replace(SLOT, word)
    said = say(f"{frame} {carrier}")
    at, end = said.numbers[row.slot], said.numbers[len(frame.split())]
    if at is None or end is None:
        raise PatchingError(f"{word if at is None else carrier!r} has no unit of its own in {frame!r}")
    return before(slm, said.utterance, end), at


def _continuation(say: Speaker, row: _Row, word: str, answer: str) -> Int[Tensor, " pos"]:
    frame = row.frame.replace(SLOT, word)
    said = say(f"{frame} {answer}")
    own = said.numbers[len(frame.split()) :]
    if own[0] is None or own[-1] is None:
        raise PatchingError(f"{answer!r} has no unit of its own after {frame!r}")
    return units_between(said.utterance, own[0], own[-1])


def _carrier(row: _Row, rows: Sequence[_Row]) -> str:
    answers = [one for other in rows if other.frame == row.frame for one in (other.answer, other.distractor)]
    free = sorted({one for one in answers if one not in (row.answer, row.distractor)})
    if not free:
        raise PatchingError(
            "its prompts need a word that they are said to go on with, and no other row of the frame has an answer; give a carrier"
        )
    return free[0]


def _asked(frame: str, rows: Sequence[_Row]) -> Mapping[str, set[str]]:
    """Words of a frame with what follows them."""
    found: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        if row.frame == frame:
            found[row.clean].add(row.answer)
            found[row.corrupted].add(row.distractor)
    return found


def _rows(table: pd.DataFrame | str | os.PathLike[str]) -> list[_Row]:
    frame = table if isinstance(table, pd.DataFrame) else _csv(table)
    missing, strange = [one for one in WANTED if one not in frame], [one for one in frame if one not in (*WANTED, *MAY)]
    if missing or strange or not len(frame):
        raise PatchingError(
            f"A word list has rows and the columns {', '.join(WANTED)}, and may have {', '.join(MAY)}; got {len(frame)} rows, "
            f"missing: {missing or 'none'}, not known: {strange or 'none'}. Rename them; on the command line --column answer=theirs does."
        )
    rows = []
    for number, cells in enumerate(frame.to_dict("records")):
        told = {str(key): " ".join(str(cell).split()) for key, cell in cells.items() if not pd.isna(cell) and str(cell).strip()}
        empty = [one for one in WANTED if one not in told]
        several = [one for one in ("clean", "corrupted") if len(told.get(one, "").split()) > 1]
        if empty or several or told["frame"].split().count(SLOT) != 1:
            raise PatchingError(
                f"Row {number} of the word list needs {', '.join(WANTED)}, one {SLOT} between blanks in its frame, and single words in its place; "
                f"empty: {empty or 'none'}, of several words: {several or 'none'}, frame: {told.get('frame')!r}."
            )
        rows.append(_Row(**told))
    return rows


def _csv(path: str | os.PathLike[str]) -> pd.DataFrame:
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise PatchingError(f"{os.fspath(path)!r} is no CSV file that can be read: {error}") from error
