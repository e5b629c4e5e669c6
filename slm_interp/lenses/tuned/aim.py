"""What a tuned lens is trained to say, and where: part of its name, because the answer it gives depends on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from slm_interp.errors import ReadoutError
from slm_interp.vocabulary import JointVocabulary

Where: TypeAlias = Literal["all", "speech", "text"]
Among: TypeAlias = Literal["joint", "speech", "text"]
Weighting: TypeAlias = Literal["position", "modality"]


@dataclass(frozen=True)
class Aim:
    """What was trained on what.

    Args:
        positions: where the lens is trained: at positions whose own id is `"speech"`, `"text"`, or at `"all"` of them. A lens
            trained at speech positions learns to show the speech that follows and can hide text.
        among: the ids between which the probability is compared: `"joint"` is all but dead rows, as in every reading;
            `"speech"` and `"text"` renormalise within the modality, so that such a lens says nothing about how much mass it has.
        weighting: `"position"` counts every position alike, `"modality"` gives speech and text positions equal shares: a
            word has several times as many units as pieces.

    Raises:
        ReadoutError: another word.
    """

    positions: Where = "all"
    among: Among = "joint"
    weighting: Weighting = "position"

    def __post_init__(self) -> None:
        for name, allowed in (("positions", Where), ("among", Among), ("weighting", Weighting)):
            if getattr(self, name) not in get_args(allowed):
                raise ReadoutError(f"An aim's {name} is one of {', '.join(get_args(allowed))}; got {getattr(self, name)!r}.")
        if self.weighting == "modality" and self.positions != "all":
            raise ReadoutError(f"Weighting by modality needs positions of both; this aim has {self.positions} positions alone.")

    def __str__(self) -> str:
        equal = ", equal shares" if self.weighting == "modality" else ""
        return f"{self.positions} positions{equal}, {self.among} vocabulary"

    @property
    def settings(self) -> dict[str, str]:
        """By name, for results and files."""
        return {"positions": self.positions, "among": self.among, "weighting": self.weighting}

    def ids(self, vocabulary: JointVocabulary) -> Bool[Tensor, " d_vocab"]:
        """The ids that are compared.

        Raises:
            ReadoutError: a vocabulary without this modality.
        """
        if self.among == "joint":
            return ~vocabulary.mask("dead")
        if self.among not in vocabulary.kinds:
            raise ReadoutError(f"This vocabulary has {', '.join(vocabulary.kinds)}; there is no {self.among!r} to compare.")
        return vocabulary.mask(self.among)

    def chosen(self, tokens: Int[Tensor, " pos"], vocabulary: JointVocabulary) -> Bool[Tensor, " pos"]:
        """The positions that are trained at."""
        if self.positions == "all":
            return torch.ones(len(tokens), dtype=torch.bool)
        return vocabulary.mask(self.positions)[tokens]

    def weights(self, tokens: Int[Tensor, " pos"], vocabulary: JointVocabulary, shares: dict[str, float]) -> Float[Tensor, " pos"]:
        """What each position counts.

        Args:
            shares: from `shares_of`; not used where every position counts alike.
        """
        weights = torch.ones(len(tokens))
        if self.weighting == "modality":
            for kind in ("speech", "text"):
                weights[vocabulary.mask(kind)[tokens]] = shares[kind]
        return weights

    def shares(self, tokens: Int[Tensor, " pos"], vocabulary: JointVocabulary) -> dict[str, float]:
        """What a position of each modality counts, such that both count half of what they would together; markers count 1.

        Args:
            tokens: all that is trained on.

        Raises:
            ReadoutError: weighting by modality where one of the two never occurs.
        """
        if self.weighting == "position":
            return {}
        counts = {kind: int(vocabulary.mask(kind)[tokens].sum()) for kind in ("speech", "text")}
        if not all(counts.values()):
            raise ReadoutError(f"Weighting by modality needs speech and text positions; got {counts}.")
        return {kind: sum(counts.values()) / (2 * count) for kind, count in counts.items()}
