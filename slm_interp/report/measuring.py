"""Everything the paper measures and its controls, unit of work by unit of work, kept in a store that can be gone on with.

| part | what | columns |
|---|---|---|
| `current/0000`, `next/0000`, `answer/0000`, ... | ranks of the words of 16 utterances and of their nulls | `transcription.tidy` |
| `current jittered/0000`, ... | the same with word boundaries moved at random, if that was asked | likewise |
| `mass` | modality mass of speech and of text input | `input`, `variable`, `layer`, `modality`, `pooling`, `value` |
| `positions` | recall of the current word at single positions from its onset | `variable`, `null`, `layer`, `offset`, `value` |
| `rise` | recall after the word less recall before it | `transcription.rise` |
| `surprisal` | how well the model's text mode foresees each word | `transcription.surprisal` |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import xarray as xr

from slm_interp import transcription
from slm_interp.errors import ReadoutError, VocabularyError
from slm_interp.lenses import Lens
from slm_interp.model import SpeechTextModel
from slm_interp.speech import Corpus
from slm_interp.store import Store, open_store
from slm_interp.transcription import Observations, Question
from slm_interp.transcription.asking.targets import Spelling, Unspelled
from slm_interp.transcription.paper import figure_2
from slm_interp.transcription.recall import Ranks
from slm_interp.transcription.tidy import asked_of, attrs_of, observations_of, rows_of

BLOCK = 16  # utterances of one part
OFFSETS = range(-8, 13)
WIDTH = 3
COMMAND = "transcription 1"


@dataclass(frozen=True)
class Asking:
    """What is asked of a corpus; see `transcription.observe`.

    Args:
        k: of recall.
        ranks: among all live ids, as the paper is taken to do, or among text ids.
        jitter: also ask about the current word with its boundaries moved by up to so many positions; 0 does not.
    """

    k: tuple[int, ...] = (1, 10, 50)
    ranks: Ranks = "joint"
    nulls: tuple[str, ...] = ("shuffled", "elsewhere", "frequency")
    draws: int = 5
    jitter: int = 0
    spelling: Spelling = "first_piece"
    unspelled: Unspelled = "refuse"
    seed: int = 0

    def question(self, target: str, answers: tuple[str, ...] | None, jitter: int = 0) -> Question:
        """About one target."""
        options: dict[str, Any] = {"spelling": self.spelling, "unspelled": self.unspelled}
        return Question(target, self.nulls, self.draws, self.seed, jitter, answers, **options)  # type: ignore[arg-type]


def asking_of(**chosen: Any) -> Asking:
    """An `Asking` from options as they are typed.

    Raises:
        ReadoutError: an option that none of its choices is; it names them.
    """
    choices = {"ranks": get_args(Ranks), "spelling": get_args(Spelling), "unspelled": get_args(Unspelled)}
    for name, known in choices.items():
        if name in chosen and chosen[name] not in known:
            raise ReadoutError(f"{name} is one of {', '.join(known)}; got {chosen[name]!r}.")
    return Asking(**chosen)


@dataclass(frozen=True, eq=False)
class Measured:
    """What was measured.

    Args:
        observed: by target; with predictability where it could be had.
        jittered: the current word with moved boundaries, if that was asked.
        mass: of `paper.figure_2`.
        positions: of `transcription.by_position`.
        rise: of `transcription.rise`, or None for a reason in `notes`.
        rows: of all targets, as `transcription.tidy` lays them out.
        surprisal: of `transcription.surprisal`, or None for a reason in `notes`.
        notes: what could not be measured, by name, with the reason.
    """

    observed: Mapping[str, Observations]
    jittered: Observations | None
    mass: xr.Dataset
    positions: xr.Dataset
    rise: pd.DataFrame | None
    rows: pd.DataFrame
    surprisal: pd.DataFrame | None
    notes: Mapping[str, str]


def measure(slm: SpeechTextModel, corpus: Corpus, lens: Lens, asking: Asking, out: Path) -> Measured:
    """Measure everything, or what is still missing in the folder.

    Raises:
        StoreError: a folder that was made for another model, corpus, lens or question.
        ReadoutError, VocabularyError, StatisticsError: as the measures.
    """
    store = open_store(out, settings_of(slm, corpus, lens, asking), versions())
    kinds = {"current": 0, "next": 0, **({} if corpus.answers is None else {"answer": 0})}
    found = {target: _observed(slm, corpus, lens, store, asking, target) for target in kinds}
    jittered = _observed(slm, corpus, lens, store, asking, "current", asking.jitter) if asking.jitter else None
    mass = _kept(store, "mass", lambda: figure_2(slm, list(corpus), lens, asking.seed, asking.draws), flat_mass, mass_of)
    question = asking.question("current", None)

    def positions() -> xr.Dataset:
        return transcription.by_position(
            slm, list(corpus), lens, there(corpus), "onset", min(asking.k, key=_from_ten), asking.ranks, question
        )

    def rise() -> pd.DataFrame:
        return transcription.rise(slm, list(corpus), lens, WIDTH, min(asking.k, key=_from_ten), asking.ranks, question)

    at = _kept(store, "positions", positions, flat_positions, positions_of)
    notes: dict[str, str] = {}
    risen = _if_it_can(store, "rise", rise, notes)
    guessed = _if_it_can(store, "surprisal", lambda: transcription.surprisal(slm, list(corpus), corpus.answers), notes)
    observed = {target: seen for target, (seen, _) in found.items()}
    if guessed is not None:
        observed = {target: transcription.with_predictability(seen, slm, list(corpus), corpus.answers) for target, seen in observed.items()}
    rows = pd.concat([frame for _, frame in found.values()], ignore_index=True)
    return Measured(observed, None if jittered is None else jittered[0], mass, at, risen, rows, guessed, notes)


def _from_ten(k: int) -> int:
    return abs(k - 10)


def settings_of(slm: SpeechTextModel, corpus: Corpus, lens: Lens, asking: Asking) -> dict[str, Any]:
    """All that the numbers depend on, for the store."""
    return {
        "command": COMMAND,
        "fingerprint": str(slm.provenance.get("fingerprint", "")),
        "checkpoint": str(slm.provenance.get("checkpoint", "")),
        "dtype": str(slm.model.cfg.dtype).removeprefix("torch."),
        "corpus": corpus.hash,
        "lens": dict(lens.settings),
        "block": BLOCK,
        **{name: list(value) if isinstance(value, tuple) else value for name, value in asdict(asking).items()},
    }


def versions() -> dict[str, str]:
    """Of the packages that the numbers may depend on."""
    return {name: version(name) for name in ("slm-interp", "torch", "transformer-lens", "numpy", "pandas", "pyarrow", "xarray")}


def _observed(
    slm: SpeechTextModel, corpus: Corpus, lens: Lens, store: Store, asking: Asking, target: str, jitter: int = 0
) -> tuple[Observations, pd.DataFrame]:
    question = asking.question(target, corpus.answers, jitter)
    utterances = list(corpus)
    asked = asked_of(slm, utterances, question)
    keys = []
    for key, block in blocks(f"{target} jittered" if jitter else target, len(corpus)):
        keys.append(key)
        if key not in store:
            store.write(key, rows_of(slm, utterances, lens, asked, question, "span", block))
    rows = store.frame(keys)
    rows.attrs = {}
    return observations_of(rows, attrs_of(slm, utterances, lens, asked, question, "span")), rows


def blocks(name: str, count: int) -> Iterator[tuple[str, range]]:
    """Keys and numbers of the utterances of each part."""
    for number, start in enumerate(range(0, count, BLOCK)):
        yield f"{name}/{number:04d}", range(start, min(start + BLOCK, count))


def there(corpus: Corpus) -> list[int]:
    """Those of the `OFFSETS` from a word's onset that some word has."""
    found = {place for one in corpus for word in one.words for place in range(-word.span.start, len(one) - word.span.start)}
    return [one for one in OFFSETS if one in found]


def _kept(
    store: Store,
    key: str,
    made: Callable[[], xr.Dataset],
    flat: Callable[[xr.Dataset], pd.DataFrame],
    back: Callable[[pd.DataFrame], xr.Dataset],
) -> xr.Dataset:
    if key not in store:
        store.write(key, flat(made()))
    return back(store.read(key))


def _if_it_can(store: Store, key: str, made: Callable[[], pd.DataFrame], notes: dict[str, str]) -> pd.DataFrame | None:
    """A table, or None and the reason: short words have no positions before them, some models have no text mode to ask."""
    if key not in store:
        try:
            store.write(key, made())
        except (ReadoutError, VocabularyError) as error:
            notes[key] = str(error)
            return None
    return store.read(key)


def flat_mass(dataset: xr.Dataset) -> pd.DataFrame:
    """One row a number: `input`, `variable`, `layer`, `modality`, `pooling`, `value`; `""` where a number has no such coordinate."""
    tables = []
    for name, values in dataset.drop_vars("uniform_mass").data_vars.items():
        table = values.rename("value").to_dataframe().reset_index().rename(columns={"matched": "modality"})
        tables.append(table.assign(variable=str(name)))
    tables.append(dataset["uniform_mass"].rename("value").to_dataframe().reset_index().assign(variable="uniform_mass", layer=-1))
    for table in tables:
        for column in ("input", "modality", "pooling"):
            table[column] = table[column].astype(object) if column in table else ""
    columns = ["input", "variable", "layer", "modality", "pooling", "value"]
    return pd.concat([table[columns] for table in tables], ignore_index=True)


def mass_of(frame: pd.DataFrame) -> xr.Dataset:
    """The dataset that `flat_mass` laid out."""
    found: dict[str, xr.DataArray] = {}
    for name, rows in frame.groupby("variable", sort=False):
        index = [one for one in ("input", "layer", "modality", "pooling") if (rows[one] != ("" if one != "layer" else -1)).all()]
        array = rows.set_index(index)["value"].to_xarray().reindex({one: list(dict.fromkeys(rows[one])) for one in index})
        found[str(name)] = array.rename({"modality": "matched"}) if name == "size_matched_mass" else array
    return xr.Dataset(found)


def flat_positions(dataset: xr.Dataset) -> pd.DataFrame:
    """One row a number: `variable`, `null`, `layer`, `offset`, `value`; `""` and -1 where a number has no such coordinate."""
    tables = []
    for name, values in dataset.data_vars.items():
        table = values.rename("value").to_dataframe().reset_index().assign(variable=str(name))
        table = table.assign(**{one: absent for one, absent in (("null", ""), ("layer", -1)) if one not in table})
        tables.append(table[["variable", "null", "layer", "offset", "value"]].astype({"null": object, "value": np.float64}))
    whole = pd.concat(tables, ignore_index=True)
    return whole.assign(k=int(dataset.attrs["k"]), relative_to=str(dataset.attrs["relative_to"]))


def positions_of(frame: pd.DataFrame) -> xr.Dataset:
    """The dataset that `flat_positions` laid out."""
    found: dict[str, xr.DataArray] = {}
    for name, rows in frame.groupby("variable", sort=False):
        index = [one for one, absent in (("null", ""), ("layer", -1), ("offset", None)) if absent is None or (rows[one] != absent).all()]
        found[str(name)] = rows.set_index(index)["value"].to_xarray().reindex({one: list(dict.fromkeys(rows[one])) for one in index})
    return xr.Dataset(found, attrs={"k": int(frame["k"].iloc[0]), "relative_to": str(frame["relative_to"].iloc[0])})
