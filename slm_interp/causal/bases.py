"""Bases of text: along which directions of the residual stream a word stands, for whoever asks the stream about words or edits them.

    basis = LensBasis(LogitLens(slm), slm)
    a, b = basis.pairs(5, "paris", "berlin")                     # SwapCoordinates(a, b), CopyCoordinates(torch.cat([a, b]), source)
    basis.score(resid, 5, ["paris", "berlin"])                   # what the basis reads of each word

| basis | the direction of a word at layer `l` | its score in a residual |
|---|---|---|
| `LensBasis(lens, slm)` | along which the lens reads an id: a column of `W_U` pulled back through the final norm, and through the lens | the lens's logit |
| `EmbeddingBasis(slm)` | the row of `W_E` of an id: what the model is given when it reads the word | dot product |
| `ProbeBasis(probe)` | the weights of the word's class | the probe's log-probability |
| `RandomBasis(d_model)` | drawn: a basis that knows nothing, for tests and controls | dot product |

Which ids are a word is its *spelling*, by the names that `transcription` uses:

| spelling | ids | directions of a pair are matched |
|---|---|---|
| `first_piece` | the first piece of `" word"` | one with one |
| `variants` | first pieces of {word, lower, Capitalised} with and without a space | form by form; forms that one of the two lacks are left out |
| `all_pieces` | every piece of `" word"` | piece by piece, as far as the shorter word goes |

A pair of directions that depends on the pairs before it (the same id again, a form in which both words are one id) is left out for both words. Words with
the same first piece have the same direction and are refused by name; with `all_pieces` they are told apart by the pieces that differ.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, get_args, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from slm_interp import hooked
from slm_interp.errors import PatchingError
from slm_interp.lenses.lens import DirectedLens, VocabularyLens
from slm_interp.lenses.probe.probe import WordProbe, rank_of
from slm_interp.model import SpeechTextModel
from slm_interp.patching.interventions.directions import Subspace, along
from slm_interp.transcription.asking.targets import by_form

Spelling: TypeAlias = Literal["first_piece", "variants", "all_pieces"]
Pair: TypeAlias = "tuple[Float[Tensor, 'pair d_model'], Float[Tensor, 'pair d_model']]"

FIRST = " word"  # the form in which a word stands inside a sentence


@runtime_checkable
class Basis(Protocol):
    """Directions of words at a layer of `resid_post`, in blocks run."""

    @property
    def name(self) -> str:
        """What the basis is called in results."""
        ...

    @property
    def settings(self) -> dict[str, str]:
        """What a result must say about the basis to be repeated."""
        ...

    def directions(self, layer: int, words: Sequence[str]) -> Float[Tensor, "direction d_model"]:
        """All directions of some words, word after word, in float32 at least; an id that several spellings share comes once."""
        ...

    def pairs(self, layer: int, first: str, second: str) -> Pair:
        """Directions of two words, matched one with one; together they are independent.

        Raises:
            PatchingError: words that no direction tells apart.
        """
        ...

    def score(self, resid: Float[Tensor, "*batch d_model"], layer: int, words: Sequence[str]) -> Float[Tensor, "*batch word"]:
        """What the basis reads of each word in residuals of that layer: the most that one of its spellings gives."""
        ...


@dataclass(frozen=True, eq=False)
class LensBasis:
    """Directions along which a lens reads words: the logit lens, a tuned or a Jacobian one.

    Raises:
        PatchingError: a lens that cannot say its directions, or not those of more than the first piece.
    """

    lens: DirectedLens
    slm: SpeechTextModel
    spelling: Spelling = "first_piece"

    def __post_init__(self) -> None:
        _known(self.spelling)
        if isinstance(self.lens, WordProbe):
            raise PatchingError("A probe answers in classes, not in ids; use ProbeBasis(probe).")
        if not isinstance(self.lens, DirectedLens if self.spelling == "first_piece" else VocabularyLens):
            wanted = "directions(layer, words)" if self.spelling == "first_piece" else "directions_of_ids(layer, ids)"
            raise PatchingError(f"{self.spelling} needs a lens with {wanted}; {type(self.lens).__name__} has none.")

    @property
    def name(self) -> str:
        """The lens, and how words are spelled where not by their first piece."""
        return _named(self.lens.name, self.spelling)

    @property
    def settings(self) -> dict[str, str]:
        """Those of the lens, and the spelling."""
        return {**self.lens.settings, "basis": self.name, "spelling": self.spelling}

    def directions(self, layer: int, words: Sequence[str]) -> Float[Tensor, "direction d_model"]:
        """As `Basis.directions`; errors of the lens, and words the tokenizer cannot spell."""
        if self.spelling == "first_piece" and not isinstance(self.lens, VocabularyLens):
            return self.lens.directions(layer, words)
        return self._of_ids(layer, _distinct(self.slm, words, self.spelling))

    def pairs(self, layer: int, first: str, second: str) -> Pair:
        """As `Basis.pairs`."""
        own, other = _matched(self.slm, first, second, self.spelling)
        if not isinstance(self.lens, VocabularyLens):
            both = self.lens.directions(layer, [first, second])
            return _independent(both[:1], both[1:], (first, second))
        return _independent(self._of_ids(layer, own), self._of_ids(layer, other), (first, second))

    def score(self, resid: Float[Tensor, "*batch d_model"], layer: int, words: Sequence[str]) -> Float[Tensor, "*batch word"]:
        """The lens's logit of each word, before any softmax."""
        ready, unembedding = hooked.widened(self.lens.scores(resid, layer)), hooked.unembedding(self.slm.model)
        best = []
        for word in words:
            ids = list(_spelled(self.slm, word, self.spelling).values())
            logits = ready @ hooked.widened(unembedding.W_U[:, ids]).to(ready)
            best.append((logits if unembedding.b_U is None else logits + unembedding.b_U[ids].to(logits)).amax(-1))
        return torch.stack(best, dim=-1)

    def _of_ids(self, layer: int, ids: Sequence[int]) -> Float[Tensor, "id d_model"]:
        assert isinstance(self.lens, VocabularyLens)
        return self.lens.directions_of_ids(layer, ids)


@dataclass(frozen=True, eq=False)
class EmbeddingBasis:
    """Rows of `W_E`, the same at every layer: what the model is given when it reads a word, which later layers may or may not keep."""

    slm: SpeechTextModel
    spelling: Spelling = "first_piece"

    def __post_init__(self) -> None:
        _known(self.spelling)

    @property
    def name(self) -> str:
        """`embedding`, and how words are spelled where not by their first piece."""
        return _named("embedding", self.spelling)

    @property
    def settings(self) -> dict[str, str]:
        """Name and spelling."""
        return {"basis": self.name, "spelling": self.spelling}

    def directions(self, layer: int, words: Sequence[str]) -> Float[Tensor, "direction d_model"]:
        """As `Basis.directions`; errors are of layers that are not there and words the tokenizer cannot spell."""
        return self._rows(layer, _distinct(self.slm, words, self.spelling))

    def pairs(self, layer: int, first: str, second: str) -> Pair:
        """As `Basis.pairs`."""
        own, other = _matched(self.slm, first, second, self.spelling)
        return _independent(self._rows(layer, own), self._rows(layer, other), (first, second))

    def score(self, resid: Float[Tensor, "*batch d_model"], layer: int, words: Sequence[str]) -> Float[Tensor, "*batch word"]:
        """Dot products with the rows."""
        rows = [self._rows(layer, list(_spelled(self.slm, word, self.spelling).values())) for word in words]
        return torch.stack([along(resid, one).amax(-1) for one in rows], dim=-1)

    def _rows(self, layer: int, ids: Sequence[int]) -> Float[Tensor, "id d_model"]:
        last = self.slm.model.cfg.n_layers
        if not 0 <= layer <= last:
            raise PatchingError(f"Layers count blocks run, 0 (embedding) to {last}; got {layer}.")
        return hooked.widened(hooked.parameters(self.slm.model)["embed.W_E"].detach()[list(ids)])


@dataclass(frozen=True, eq=False)
class ProbeBasis:
    """Weights of a word probe: the word as it can be read at all, in whichever code. Each word has one direction, that of its class.

    They are filters: what reads a word best is not what the model writes for it, where noise is correlated (Haufe et al. 2014).
    """

    probe: WordProbe

    @property
    def name(self) -> str:
        """That of the probe."""
        return self.probe.name

    @property
    def settings(self) -> dict[str, str]:
        """Those of the probe."""
        return {**self.probe.settings, "basis": self.name}

    def directions(self, layer: int, words: Sequence[str]) -> Float[Tensor, "direction d_model"]:
        """As `Basis.directions`; errors are of layers it was not trained at and words without a class."""
        return self.probe.directions(layer, list(dict.fromkeys(words)))

    def pairs(self, layer: int, first: str, second: str) -> Pair:
        """As `Basis.pairs`."""
        if first == second:
            raise _alike(first, second)
        both = self.probe.directions(layer, [first, second])
        return _independent(both[:1], both[1:], (first, second))

    def score(self, resid: Float[Tensor, "*batch d_model"], layer: int, words: Sequence[str]) -> Float[Tensor, "*batch word"]:
        """Log-probabilities of the words' classes."""
        self.probe.directions(layer, words)  # refuses words without a class
        return self.probe.scores(resid, layer)[..., [self.probe.classes.index(word) for word in words]]


@dataclass(frozen=True)
class RandomBasis:
    """Directions drawn by word and layer, of norm 1: the same word has the same one whatever else is asked for.

    Args:
        d_model: width of the stream.
        seed: of everything drawn.
        each: directions of a word.
    """

    d_model: int
    seed: int = 0
    each: int = 1
    name: str = "random"

    def __post_init__(self) -> None:
        if not 1 <= 2 * self.each <= self.d_model:
            raise PatchingError(f"Two words with {self.each} directions each do not fit a stream of {self.d_model}.")

    @property
    def settings(self) -> dict[str, str]:
        """Seed and directions of a word."""
        return {"basis": self.name, "seed": str(self.seed), "each": str(self.each)}

    def directions(self, layer: int, words: Sequence[str]) -> Float[Tensor, "direction d_model"]:
        """As `Basis.directions`."""
        return torch.cat([self._of(layer, word) for word in dict.fromkeys(words)])

    def pairs(self, layer: int, first: str, second: str) -> Pair:
        """As `Basis.pairs`."""
        if first == second:
            raise _alike(first, second)
        return _independent(self._of(layer, first), self._of(layer, second), (first, second))

    def score(self, resid: Float[Tensor, "*batch d_model"], layer: int, words: Sequence[str]) -> Float[Tensor, "*batch word"]:
        """Dot products."""
        return torch.stack([along(resid, self._of(layer, word)).amax(-1) for word in words], dim=-1)

    def _of(self, layer: int, word: str) -> Float[Tensor, "direction d_model"]:
        drawn = hashlib.sha256(f"{self.seed}|{layer}|{word}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(drawn[:7], "big"))
        rows = torch.randn(self.each, self.d_model, generator=generator)
        return rows / rows.norm(dim=-1, keepdim=True)


def basis_of(asked: Basis | DirectedLens, slm: SpeechTextModel) -> Basis:
    """A basis as it is; a lens or a probe as the basis of its directions, of first pieces.

    Raises:
        PatchingError: something else.
    """
    if isinstance(asked, WordProbe):
        return ProbeBasis(asked)
    if isinstance(asked, Basis):
        return asked
    if isinstance(asked, DirectedLens):
        return LensBasis(asked, slm)
    raise PatchingError(f"A basis of text is a basis, a lens with directions or a probe; got {type(asked).__name__}. See causal.bases.")


# -- what a basis reads in two runs ------------------------------------------------------------------


def margin(
    basis: Basis,
    layer: int,
    words: tuple[str, str],
    clean: Float[Tensor, "clean_pos d_model"],
    corrupted: Float[Tensor, "corrupted_pos d_model"],
) -> float:
    """How much more the basis reads the first word than the second in the clean residuals than in the corrupted ones.

    Of each score the greatest over the positions counts: a word need not stand at all of them.
    """
    here, there = (basis.score(resid, layer, list(words)).amax(0) for resid in (clean, corrupted))
    return float((here[0] - here[1]) - (there[0] - there[1]))


def rank(basis: Basis, layer: int, word: str, candidates: Sequence[str], resid: Float[Tensor, "pos d_model"]) -> float:
    """The word's rank among candidates, from 0, by its greatest score over the positions; those equal to it count half.

    Raises:
        PatchingError: a word that is not among the candidates.
    """
    names = list(dict.fromkeys(candidates))
    if word not in names:
        raise PatchingError(f"A rank is among candidates, of which {word!r} must be one; got {len(names)} others.")
    best = basis.score(resid, layer, names).amax(0)
    return float(rank_of(best[None].float(), torch.tensor([[names.index(word)]]))[0, 0])


# -- spelling ----------------------------------------------------------------------------------------


def _known(spelling: str) -> None:
    if spelling not in get_args(Spelling):
        raise PatchingError(f"A word is spelled by {', '.join(get_args(Spelling))}; got {spelling!r}.")


def _named(name: str, spelling: str) -> str:
    return name if spelling == "first_piece" else f"{name}, {spelling}"


def _spelled(slm: SpeechTextModel, word: str, spelling: Spelling) -> dict[str, int]:
    """Ids of a word, by what they are matched with: a form, or the number of a piece. That of its first piece comes first."""
    pieces = slm.word_ids(word)
    if spelling == "all_pieces":
        return {str(number): one for number, one in enumerate(pieces)}
    found = {FIRST: pieces[0]}
    if spelling == "variants":
        found |= {form: one for form, one in by_form(slm, word).items() if form != FIRST}
    return found


def _distinct(slm: SpeechTextModel, words: Sequence[str], spelling: Spelling) -> list[int]:
    return list(dict.fromkeys(one for word in words for one in _spelled(slm, word, spelling).values()))


def _matched(slm: SpeechTextModel, first: str, second: str, spelling: Spelling) -> tuple[list[int], list[int]]:
    """Ids of two words, form by form; a pair with an id that is in a pair before it is left out.

    Raises:
        PatchingError: words that share what tells them apart.
    """
    own: Mapping[str, int] = _spelled(slm, first, spelling)
    other: Mapping[str, int] = _spelled(slm, second, spelling)
    if spelling != "all_pieces" and own[FIRST] == other[FIRST]:
        raise _alike(first, second, slm.label(own[FIRST]))
    matched: list[tuple[int, int]] = []
    for form in own:
        pair = own[form], other.get(form)
        if pair[1] is not None and pair[0] != pair[1] and not set(pair) & {one for done in matched for one in done}:
            matched.append((pair[0], pair[1]))
    if not matched:
        raise _alike(first, second, slm.label(next(iter(own.values()))))
    return [one for one, _ in matched], [one for _, one in matched]


def _alike(first: str, second: str, piece: str | None = None) -> PatchingError:
    shared = "are one word" if piece is None else f"both begin with {piece!r}"
    return PatchingError(
        f"{first!r} and {second!r} {shared}: they have one direction, and exchanging them changes nothing. Leave this case out"
        f"{'.' if piece is None else ', or tell the words apart by spelling=' + repr('all_pieces') + '.'}"
    )


def _independent(first: Float[Tensor, "tried d_model"], second: Float[Tensor, "tried d_model"], words: tuple[str, str]) -> Pair:
    """The pairs that are independent of those before them, the first of which must be.

    Raises:
        PatchingError: directions of the two words that are one line, zero or not finite.
    """
    kept: list[int] = []
    for pair in range(len(first)):
        tried = [*kept, pair]
        if Subspace(torch.cat([first[tried], second[tried]])).rank == 2 * len(tried):
            kept = tried
    if not kept:
        raise PatchingError(
            f"The directions of {words[0]!r} and {words[1]!r} lie on one line: nothing tells the words apart. Leave this case out."
        )
    return first[kept], second[kept]
