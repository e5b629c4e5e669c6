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

Which ids are a word is its *spelling*, and how two words' directions are matched with it: `spelling.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from slm_interp import hooked
from slm_interp.causal.spelling import Pair, Spelling, alike, distinct, independent, known, matched, named, spelled
from slm_interp.errors import PatchingError
from slm_interp.lenses.lens import DirectedLens, VocabularyLens
from slm_interp.lenses.probe.probe import WordProbe, rank_of
from slm_interp.model import SpeechTextModel
from slm_interp.patching.interventions.directions import along


@runtime_checkable
class Basis(Protocol):
    """Directions of words at a layer of `resid_post`, in blocks run."""

    @property
    def name(self) -> str:
        """What the basis is called in results."""
        ...

    @property
    def settings(self) -> dict[str, str]:
        """What a result must say about the basis to be repeated. `kind` other than `lens`: it has no say in the verdict of several."""
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
        known(self.spelling)
        if isinstance(self.lens, WordProbe):
            raise PatchingError("A probe answers in classes, not in ids; use ProbeBasis(probe).")
        if not isinstance(self.lens, DirectedLens if self.spelling == "first_piece" else VocabularyLens):
            wanted = "directions(layer, words)" if self.spelling == "first_piece" else "directions_of_ids(layer, ids)"
            raise PatchingError(f"{self.spelling} needs a lens with {wanted}; {type(self.lens).__name__} has none.")

    @property
    def name(self) -> str:
        """The lens, and how words are spelled where not by their first piece."""
        return named(self.lens.name, self.spelling)

    @property
    def settings(self) -> dict[str, str]:
        """Those of the lens, and the spelling."""
        return {**self.lens.settings, "kind": "lens", "basis": self.name, "spelling": self.spelling}

    def directions(self, layer: int, words: Sequence[str]) -> Float[Tensor, "direction d_model"]:
        """As `Basis.directions`; errors of the lens, and words the tokenizer cannot spell."""
        if self.spelling == "first_piece" and not isinstance(self.lens, VocabularyLens):
            return self.lens.directions(layer, words)
        return self._of_ids(layer, distinct(self.slm, words, self.spelling))

    def pairs(self, layer: int, first: str, second: str) -> Pair:
        """As `Basis.pairs`."""
        own, other = matched(self.slm, first, second, self.spelling)
        if not isinstance(self.lens, VocabularyLens):
            both = self.lens.directions(layer, [first, second])
            return independent(both[:1], both[1:], (first, second))
        return independent(self._of_ids(layer, own), self._of_ids(layer, other), (first, second))

    def score(self, resid: Float[Tensor, "*batch d_model"], layer: int, words: Sequence[str]) -> Float[Tensor, "*batch word"]:
        """The lens's logit of each word, before any softmax."""
        ready, unembedding = hooked.widened(self.lens.scores(resid, layer)), hooked.unembedding(self.slm.model)
        best = []
        for word in words:
            ids = list(spelled(self.slm, word, self.spelling).values())
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
        known(self.spelling)

    @property
    def name(self) -> str:
        """`embedding`, and how words are spelled where not by their first piece."""
        return named("embedding", self.spelling)

    @property
    def settings(self) -> dict[str, str]:
        """Name and spelling."""
        return {"kind": "embedding", "basis": self.name, "spelling": self.spelling}

    def directions(self, layer: int, words: Sequence[str]) -> Float[Tensor, "direction d_model"]:
        """As `Basis.directions`; errors are of layers that are not there and words the tokenizer cannot spell."""
        return self._rows(layer, distinct(self.slm, words, self.spelling))

    def pairs(self, layer: int, first: str, second: str) -> Pair:
        """As `Basis.pairs`."""
        own, other = matched(self.slm, first, second, self.spelling)
        return independent(self._rows(layer, own), self._rows(layer, other), (first, second))

    def score(self, resid: Float[Tensor, "*batch d_model"], layer: int, words: Sequence[str]) -> Float[Tensor, "*batch word"]:
        """Dot products with the rows."""
        rows = [self._rows(layer, list(spelled(self.slm, word, self.spelling).values())) for word in words]
        return torch.stack([along(resid, one).amax(-1) for one in rows], dim=-1)

    def _rows(self, layer: int, ids: Sequence[int]) -> Float[Tensor, "id d_model"]:
        last = self.slm.model.cfg.n_layers
        if not 0 <= layer <= last:
            raise PatchingError(f"Layers count blocks run, 0 (embedding) to {last}; got {layer}.")
        return hooked.widened(hooked.embedding(self.slm.model)[list(ids)])


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
        return {**self.probe.settings, "kind": "probe", "basis": self.name}

    def directions(self, layer: int, words: Sequence[str]) -> Float[Tensor, "direction d_model"]:
        """As `Basis.directions`; errors are of layers it was not trained at and words without a class."""
        return self.probe.directions(layer, list(dict.fromkeys(words)))

    def pairs(self, layer: int, first: str, second: str) -> Pair:
        """As `Basis.pairs`."""
        if first == second:
            raise alike(first, second)
        both = self.probe.directions(layer, [first, second])
        return independent(both[:1], both[1:], (first, second))

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
        return {"kind": "random", "basis": self.name, "seed": str(self.seed), "each": str(self.each)}

    def directions(self, layer: int, words: Sequence[str]) -> Float[Tensor, "direction d_model"]:
        """As `Basis.directions`."""
        return torch.cat([self._of(layer, word) for word in dict.fromkeys(words)])

    def pairs(self, layer: int, first: str, second: str) -> Pair:
        """As `Basis.pairs`."""
        if first == second:
            raise alike(first, second)
        return independent(self._of(layer, first), self._of(layer, second), (first, second))

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
