"""Several kinds of unit in one row of ids: codebooks of a frame side by side, or streams of different rates merged by time.

- Flattened (SODA, Llama-Mimi, Orpheus): the codes of a frame stand in a row, frame after frame.
- Merged (Spirit LM expressive): each stream's repeats are merged if its codebook says so, then all units are sorted by the time at
  which they begin; of two that begin together the slower stream comes first (`units_to_string` of Spirit LM: a stable sort of style,
  pitch, sound).
- Whether a unit may follow itself is asked here, by whoever joins rows or lets a model go on: `repeats_are_merged`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from slm_interp.errors import UtteranceError, VocabularyError
from slm_interp.utterance import Span
from slm_interp.vocabulary import IdRange, JointVocabulary


def flattened(
    vocabulary: JointVocabulary, units: Int[Tensor, "frame codebook"], edges: Float[Tensor, " frame_and_one"]
) -> tuple[Int[Tensor, " pos"], Float[Tensor, " pos_and_one"]]:
    """Frames of codes as one row of ids; the positions of a frame share its time evenly.

    Args:
        vocabulary: with as many codebooks as there are columns.
        units: codes.
        edges: seconds, one more than frames.

    Raises:
        VocabularyError: another number of codebooks, edges that do not fit, or codes outside their codebook.
    """
    books = vocabulary.codebooks
    if units.shape[1] != len(books):
        raise VocabularyError(f"This vocabulary has {len(books)} codebooks; the frames have {units.shape[1]} codes.")
    if len(edges) != len(units) + 1:
        raise VocabularyError(f"{len(units)} frames need {len(units) + 1} edges; got {len(edges)}.")
    ids = torch.stack([vocabulary.unit_to_id(units[:, column], book) for column, book in enumerate(books)], dim=1).flatten()
    shares = torch.arange(len(books), dtype=torch.float64) / len(books)
    starts = edges[:-1, None].double() + shares * (edges[1:] - edges[:-1])[:, None].double()
    return ids, torch.cat([starts.flatten(), edges[-1:].double()])


def unflattened(vocabulary: JointVocabulary, ids: Int[Tensor, " pos"]) -> Int[Tensor, "frame codebook"]:
    """Frames of codes from one row of ids.

    Raises:
        VocabularyError: a broken frame, or an id that is no code of the codebook whose turn it is.
    """
    books = vocabulary.codebooks
    if not books or len(ids) % len(books):
        raise VocabularyError(f"Frames of {len(books)} codes were wanted; {len(ids)} ids are no whole number of them.")
    frames = ids.reshape(-1, len(books))
    return torch.stack([vocabulary.id_to_unit(frames[:, column], book) for column, book in enumerate(books)], dim=1)


def merged_by_time(
    vocabulary: JointVocabulary, streams: Mapping[int, Sequence[int]]
) -> tuple[Int[Tensor, " pos"], Float[Tensor, " pos_and_one"]]:
    """Streams of units, each at its own rate, as one row of ids.

    Args:
        vocabulary: whose codebooks state their rates, and whether repeats are merged.
        streams: units of each codebook, one a frame, repeats not yet merged.

    Returns:
        ids, and edges in seconds: each position begins where its unit does, the last ends with the longest stream.

    Raises:
        VocabularyError: an unknown codebook, or one of unknown rate.
    """
    books = {one.codebook: one for one in vocabulary.ranges if one.codebook is not None}
    begun: list[tuple[float, float, int]] = []  # start in seconds, rate, id
    end = 0.0
    for book, units in streams.items():
        if book not in books or books[book].rate_hz is None:
            raise VocabularyError(
                f"Codebook {book} has no stated rate; there are {sorted(key for key, one in books.items() if one.rate_hz)}."
            )
        ids = vocabulary.unit_to_id(torch.as_tensor(units, dtype=torch.long), book).tolist()
        begun += _begun(books[book], ids)
        end = max(end, len(ids) / _rate(books[book]))
    begun.sort(key=lambda one: one[:2])
    edges = [start for start, _, _ in begun] + [end]
    return torch.tensor([identifier for _, _, identifier in begun], dtype=torch.long), torch.tensor(edges, dtype=torch.float64)


def _begun(book: IdRange, ids: Sequence[int]) -> list[tuple[float, float, int]]:
    rate = _rate(book)
    return [(place / rate, rate, one) for place, one in enumerate(ids) if not (book.merged and place and ids[place - 1] == one)]


def _rate(book: IdRange) -> float:
    assert book.rate_hz is not None
    return book.rate_hz


def begun_in(edges: Float[Tensor, " pos_and_one"], start_s: float, end_s: float) -> Span:
    """The positions that begin in a stretch of time.

    Raises:
        UtteranceError: none does.
    """
    begun = ((edges[:-1] >= start_s) & (edges[:-1] < end_s)).nonzero().flatten()
    if not len(begun):
        raise UtteranceError(f"No unit begins between {start_s:.3f} s and {end_s:.3f} s.")
    return Span(int(begun[0]), int(begun[-1]) + 1)


def repeats(ids: Int[Tensor, " pos"]) -> int:
    """How many ids follow themselves: none, where repeats are merged, so that no model was trained on such a row."""
    return int((ids[1:] == ids[:-1]).sum())


def repeats_are_merged(vocabulary: JointVocabulary, rows: Sequence[Int[Tensor, " _"]]) -> bool:
    """Whether no unit may follow itself: as the codebooks declare it; where nobody said, as it is in these rows.

    Args:
        rows: of ids that a model of this vocabulary is given, such as both prompts of a contrast.
    """
    declared = {one.merged for one in vocabulary.ranges if one.kind == "speech"}
    if len(declared) == 1 and (said := declared.pop()) is not None:
        return said
    speech = vocabulary.mask("speech")
    return not any((speech[row[1:]] & (row[1:] == row[:-1])).any() for row in (one.to(speech.device) for one in rows))
