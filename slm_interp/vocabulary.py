"""Which ids are text, speech units, markers or dead: the joint vocabulary as id ranges.

A family declares a handful of `IdRange`s that tile the rows of the embedding exactly. Masks, kinds and
the way between units and ids are arithmetic on those ranges; strings are never encoded to find an id.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from slm_interp.errors import VocabularyError

Kind = Literal["text", "speech", "marker", "other", "dead"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class IdRange:
    """Ids `start, start + step, ...` below `stop`, all of one kind.

    Args:
        kind: `text`, `speech`, `marker` (switches modality or frames a sequence), `other` (images, music) or `dead` (no
            tokenizer emits it).
        start: as in `range`.
        stop: as in `range`.
        step: as in `range`; above 1 it declares interleaved codebooks.
        codebook: which quantiser the units belong to; speech only.
        template: how a token is spelled: `"<Un{}>"` for units (`"{:c}"`: the character of that code), `"<speech>"` for a marker.
        first: the number that the first id is spelled with.
        rate_hz: units a second, before repeats are merged; None where nobody said.
        merged: whether repeats are merged; None where nobody said.

    Raises:
        VocabularyError: an empty or negative range, an unknown kind, or a codebook where there is none.
    """

    kind: Kind
    start: int
    stop: int
    step: int = 1
    codebook: int | None = None
    template: str | None = None
    first: int = 0
    rate_hz: float | None = None
    merged: bool | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise VocabularyError(f"A range is one of {', '.join(KINDS)}; got {self.kind!r}.")
        if self.start < 0 or self.step < 1 or self.stop <= self.start:
            raise VocabularyError(
                f"An id range needs 0 <= start < stop and step >= 1; got {self.start}:{self.stop}:{self.step} for {self.kind}."
            )
        if (self.kind == "speech") != (self.codebook is not None):
            raise VocabularyError(f"Speech ranges, and only they, name their codebook; got codebook={self.codebook} for {self.kind}.")
        if self.kind == "marker" and (len(self) != 1 or self.template is None):
            raise VocabularyError(
                f"A marker is one id with its spelling as template; got ids {self.start}:{self.stop}, template {self.template!r}."
            )
        try:
            ends = (self.spelled(self.ids[0]), self.spelled(self.ids[-1]))
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
            raise VocabularyError(f"{self.template!r} does not spell {len(self)} numbers from {self.first}: {error}") from error
        if self.template is not None and len(self) > 1 and ends[0] == ends[1]:
            raise VocabularyError(f"A template of several ids needs a place for the number, as in '<Un{{}}>'; got {self.template!r}.")

    @property
    def ids(self) -> range:
        """The ids themselves."""
        return range(self.start, self.stop, self.step)

    def __len__(self) -> int:
        return len(self.ids)

    def spelled(self, identifier: int) -> str | None:
        """The token string of an id of this range, where the range declares one. Markers are spelled as they stand."""
        if self.template is None or self.kind == "marker":
            return self.template
        return self.template.format(self.first + self.ids.index(identifier))


@dataclass(frozen=True)
class JointVocabulary:
    """The rows of an embedding, declared.

    Args:
        ranges: they tile `0..size - 1` exactly, each id in one range.
        size: rows of the embedding, never the length of a tokenizer.
        quantiser: hash of the codebook the speech ids stand for; None when the checkpoint does not say.

    Raises:
        VocabularyError: no rows, overlaps, gaps, ids beyond `size`, repeated markers or codebooks.
    """

    ranges: tuple[IdRange, ...]
    size: int
    quantiser: str | None = None

    def __post_init__(self) -> None:
        if self.size < 1:
            raise VocabularyError(f"An embedding has at least one row; got size={self.size}.")
        owners = torch.zeros(self.size, dtype=torch.int32)
        for one in self.ranges:
            if one.ids[-1] >= self.size:
                raise VocabularyError(f"{one.kind} ids {one.start}..{one.ids[-1]} run past the {self.size} rows of the embedding.")
            owners[one.start : one.stop : one.step] += 1
        wrong = (owners != 1).nonzero().flatten().tolist()
        if wrong:
            raise VocabularyError(
                f"Ranges must tile 0..{self.size - 1} exactly; id {wrong[0]} is in {int(owners[wrong[0]])} ranges ({len(wrong)} such ids)."
            )
        names = Counter(one.template if one.kind == "marker" else one.codebook for one in self.ranges if one.kind in ("marker", "speech"))
        repeated = [name for name, count in names.items() if count > 1]
        if repeated:
            raise VocabularyError(f"Each marker and each codebook is declared once; {repeated[0]!r} is declared again.")

    @cached_property
    def _kind_of_row(self) -> Int[Tensor, " d_vocab"]:
        rows = torch.empty(self.size, dtype=torch.int8)
        for one in self.ranges:
            rows[one.start : one.stop : one.step] = KINDS.index(one.kind)
        return rows

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds that occur, in the fixed order of `KINDS`."""
        return tuple(kind for kind in KINDS if any(one.kind == kind for one in self.ranges))

    @property
    def codebooks(self) -> tuple[int, ...]:
        """The codebooks that occur, ascending."""
        return tuple(sorted(one.codebook for one in self.ranges if one.codebook is not None))

    def mask(self, kind: Kind, codebook: int | None = None) -> Bool[Tensor, " d_vocab"]:
        """True on the ids of a kind; of speech, on those of one codebook if it is given."""
        if kind not in KINDS:
            raise VocabularyError(f"A kind is one of {', '.join(KINDS)}; got {kind!r}.")
        if codebook is None:
            return self._kind_of_row == KINDS.index(kind)
        if kind != "speech":
            raise VocabularyError(f"Only speech has codebooks; got kind {kind!r} with codebook={codebook}.")
        book = self._codebook(codebook)
        mask = torch.zeros(self.size, dtype=torch.bool)
        mask[book.start : book.stop : book.step] = True
        return mask

    def kind_of(self, identifier: int) -> Kind:
        """The kind of an id."""
        self.check_ids(torch.tensor([identifier]))
        return KINDS[int(self._kind_of_row[identifier])]

    def check_ids(self, ids: Int[Tensor, "*shape"]) -> None:
        """Refuse ids that are no rows of the embedding."""
        outside = ids[(ids < 0) | (ids.long() >= self.size)]
        if outside.numel():
            raise VocabularyError(f"Ids must lie in 0..{self.size - 1}; got {int(outside.flatten()[0])} ({outside.numel()} outside).")

    def _codebook(self, codebook: int) -> IdRange:
        for one in self.ranges:
            if one.codebook == codebook:
                return one
        raise VocabularyError(f"No codebook {codebook} here; there are {list(self.codebooks) or 'none'}.")

    def n_units(self, codebook: int = 0) -> int:
        """Units in a codebook."""
        return len(self._codebook(codebook))

    def unit_to_id(self, units: Int[Tensor, "*shape"], codebook: int = 0) -> Int[Tensor, "*shape"]:
        """Ids of units: `start + step * unit`, as int64 whatever the units come in.

        Raises:
            VocabularyError: a unit outside the codebook.
        """
        book = self._codebook(codebook)
        outside = units[(units < 0) | (units >= len(book))]
        if outside.numel():
            raise VocabularyError(
                f"Codebook {codebook} has units 0..{len(book) - 1}; got {int(outside.flatten()[0])}. Are these units of another quantiser?"
            )
        return units.long() * book.step + book.start

    def id_to_unit(self, ids: Int[Tensor, "*shape"], codebook: int = 0) -> Int[Tensor, "*shape"]:
        """Units of ids: `(id - start) / step`, as int64.

        Raises:
            VocabularyError: an id that is no unit of this codebook.
        """
        book = self._codebook(codebook)
        offset = ids.long() - book.start
        wrong = ids[(offset < 0) | (offset > book.ids[-1] - book.start) | (offset % book.step != 0)]
        if wrong.numel():
            raise VocabularyError(
                f"Id {int(wrong.flatten()[0])} is no unit of codebook {codebook} (ids {book.start}..{book.ids[-1]}, step {book.step})."
            )
        return offset // book.step

    def marker(self, spelling: str) -> int:
        """The id of a marker, by its spelling."""
        markers = {one.template: one.start for one in self.ranges if one.kind == "marker"}
        if spelling not in markers:
            raise VocabularyError(f"No marker {spelling!r} here; there are {list(markers) or 'none'}.")
        return markers[spelling]

    def spelled(self, identifier: int) -> str | None:
        """The declared string of an id (`<Un7>`, `<speech>`), or None where a tokenizer has to say."""
        self.check_ids(torch.tensor([identifier]))
        return next(one.spelled(identifier) for one in self.ranges if identifier in one.ids)

    def check_embedding(self, rows: int) -> None:
        """Refuse an embedding of another height."""
        if rows != self.size:
            raise VocabularyError(f"The vocabulary declares {self.size} ids; the embedding has {rows} rows.")

    def check_tokenizer(self, tokenizer: Any) -> None:
        """Refuse a tokenizer that spells a declared id differently, emits ids that are not text, or leaves text ids out.

        Args:
            tokenizer: a Hugging Face tokenizer: `len`, `get_vocab()`.
        """
        emitted = tokenizer.get_vocab()
        spelled = {identifier: one.spelled(identifier) for one in self.ranges if one.template is not None for identifier in one.ids}
        kinds = self._kind_of_row.tolist()
        for token, identifier in sorted(emitted.items(), key=lambda item: item[1]):  # the sentence is about the first wrong id
            if identifier >= self.size:
                raise VocabularyError(
                    f"The tokenizer has {len(tokenizer)} tokens; {token!r} is id {identifier}, past the {self.size} rows of the embedding."
                )
            declared = spelled.get(identifier)
            if declared not in (None, token) and tokenizer.decode([identifier]) != declared:
                raise VocabularyError(
                    f"Id {identifier} is declared as {declared!r}; the tokenizer calls it {token!r}. Is this another model's tokenizer?"
                )
            if declared is None and KINDS[kinds[identifier]] not in ("text", "other"):
                raise VocabularyError(f"The tokenizer emits {token!r} as id {identifier}, which is declared {KINDS[kinds[identifier]]}.")
        for identifier, token in spelled.items():
            if emitted.get(token, identifier) != identifier:
                raise VocabularyError(
                    f"{token!r} is declared as id {identifier}; the tokenizer says {emitted[token]}. Is this another model's tokenizer?"
                )
        silent = self.mask("text").index_fill(0, torch.tensor([*emitted.values()], dtype=torch.long), False).nonzero().flatten()
        if len(silent):
            raise VocabularyError(
                f"{len(silent)} ids declared text are no token of this tokenizer, the first {int(silent[0])}. "
                "Declare them dead, or pass the tokenizer the model was trained with."
            )

    def table(self) -> list[dict[str, Any]]:
        """One row a range, for printing."""
        return [
            {
                "kind": one.kind,
                "ids": f"{one.start}..{one.ids[-1]}",
                "step": one.step,
                "count": len(one),
                "codebook": one.codebook,
                "spelled": one.template,
            }
            for one in self.ranges
        ]

    def __repr__(self) -> str:
        parts = ", ".join(f"{one.template if one.kind == 'marker' else one.kind} {one.start}..{one.ids[-1]}" for one in self.ranges)
        return f"JointVocabulary({self.size} ids: {parts}; quantiser {self.quantiser or 'undeclared'})"

    def _repr_html_(self) -> str:
        import pandas as pd

        return pd.DataFrame(self.table()).to_html(index=False)


def check_quantiser(wanted: str | None, came: str | None) -> None:
    """Refuse units of another codebook. Undeclared fits undeclared alone, so that nothing is assumed."""
    if wanted != came:
        raise VocabularyError(
            f"The model's units come from quantiser {wanted or 'undeclared'}; these come from {came or 'undeclared'}. "
            "Unit numbers of different codebooks mean different sounds. If you know they are the same, declare it: "
            "load(..., quantiser=...) or read the units with quantiser=..."
        )


def tiled(ranges: Sequence[IdRange], size: int, quantiser: str | None = None) -> JointVocabulary:
    """A vocabulary from the ranges a family knows, with every other row declared dead."""
    owned = torch.zeros(size, dtype=torch.bool)
    for one in ranges:
        owned[one.start : one.stop : one.step] = True
    free = (~owned).nonzero().flatten().tolist()
    runs: list[list[int]] = []
    for row in free:
        if runs and runs[-1][1] == row:
            runs[-1][1] = row + 1
        else:
            runs.append([row, row + 1])
    dead = tuple(IdRange("dead", start, stop) for start, stop in runs)
    return JointVocabulary(tuple(sorted((*ranges, *dead), key=lambda one: (one.start, one.step))), size, quantiser)
