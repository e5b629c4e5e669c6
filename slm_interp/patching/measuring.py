"""An outcome of a prompt: its continuations laid out, run, and read at the positions that predict them.

1. Every continuation is appended to the prompt without its last unit; rows that are the same are run once (with `units=1` all of them are the prompt).
2. The blocks are run. The row that belongs to a continuation is read at the positions from the last one of the prompt on.
3. Only there, and only for the ids of the outcome, the final norm and the unembedding are computed.

Rows are padded on the right where they differ in length: attention is causal, so nothing before a pad sees it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from slm_interp import hooked
from slm_interp.errors import PatchingError
from slm_interp.model import SpeechTextModel
from slm_interp.patching.outcomes import Outcome, Read
from slm_interp.utterance import Contrast, Utterance


@dataclass(frozen=True, eq=False)
class Laid:
    """A prompt with the continuations of an outcome.

    Args:
        tokens: one row for each different continuation, padded on the right.
        prompt: positions of the prompt, alike in every row.
        row: the row of each continuation.
        targets: units of each continuation as places among `ids`.
        ids: that are read.
    """

    tokens: Int[Tensor, "row pos"]
    prompt: int
    row: Mapping[str, int]
    targets: Mapping[str, Int[Tensor, " unit"]]
    ids: Int[Tensor, " id"]

    def positions(self, continuation: str) -> slice:
        """The positions that predict the units of a continuation."""
        return slice(self.prompt - 1, self.prompt - 1 + len(self.targets[continuation]))


def lay(slm: SpeechTextModel, prompt: Utterance, contrast: Contrast, outcome: Outcome) -> Laid:
    """Rows of tokens for an outcome of a prompt.

    Raises:
        PatchingError: continuations that the outcome cannot read, or rows longer than the model reads.
        UtteranceError, VocabularyError: a prompt this model cannot read.
    """
    own = slm.check(prompt).tokens
    targets = outcome.targets(contrast)
    places = outcome.places(contrast, slm.vocabulary)
    rows: list[Tensor] = []
    row: dict[str, int] = {}
    for name, ids in targets.items():
        made = torch.cat([own, ids[:-1].to(own)])
        row[name] = next((number for number, there in enumerate(rows) if torch.equal(there, made)), len(rows))
        if row[name] == len(rows):
            rows.append(made)
    longest = max(len(one) for one in rows)
    if longest > slm.model.cfg.n_ctx:
        raise PatchingError(f"The model reads at most {slm.model.cfg.n_ctx} positions; prompt and continuation have {longest}.")
    tokens = torch.stack([torch.nn.functional.pad(one, (0, longest - len(one)), value=int(own[-1])) for one in rows])
    return Laid(tokens, len(own), row, places, outcome.ids(slm.vocabulary))


def logits_at(slm: SpeechTextModel, last: Float[Tensor, "*batch d_model"], ids: Int[Tensor, " id"]) -> Float[Tensor, "*batch id"]:
    """Logits of some ids from the residual stream after the last block; with gradients, where they are on."""
    unembedding = hooked.unembedding(slm.model)
    normed, first, stop = hooked.normed(slm.model, last), int(ids[0]), int(ids[-1]) + 1
    chosen = slice(first, stop) if stop - first == len(ids) else ids.to(last.device)  # a view where they follow each other
    made = normed @ unembedding.W_U[:, chosen]
    return made if unembedding.b_U is None else made + unembedding.b_U[chosen]


def read_of(
    slm: SpeechTextModel, laid: Laid, last: Float[Tensor, "*run row pos d_model"], reference: Mapping[str, Tensor] | None = None
) -> Read:
    """What an outcome is given, from the last residuals of the rows of one or more runs."""
    logits = {name: logits_at(slm, last[..., row, laid.positions(name), :], laid.ids) for name, row in laid.row.items()}
    return Read(logits, laid.targets, reference)


def reference_of(slm: SpeechTextModel, contrast: Contrast, outcome: Outcome) -> dict[str, Tensor] | None:
    """The clean run's own logits at every continuation, where an outcome compares with them."""
    if not outcome.reference:
        return None
    laid = lay(slm, contrast.clean, contrast, outcome)
    with torch.no_grad():
        return dict(read_of(slm, laid, hooked.last_residuals(slm.model, laid.tokens)).logits)


def measure(slm: SpeechTextModel, prompt: Utterance, contrast: Contrast, outcome: Outcome) -> float:
    """An outcome of one prompt as it is, nothing patched.

    Raises:
        PatchingError: as `lay`; an outcome that is not a finite number.
    """
    laid = lay(slm, prompt, contrast, outcome)
    with torch.no_grad():
        read = read_of(slm, laid, hooked.last_residuals(slm.model, laid.tokens), reference_of(slm, contrast, outcome))
        return float(finite(outcome.score(read), outcome.name))


def finite(values: Float[Tensor, "*shape"], what: str) -> Float[Tensor, "*shape"]:
    """The values, once they are known to be numbers.

    Raises:
        PatchingError: NaN or infinity among them.
    """
    broken = ~values.isfinite()
    if broken.any():
        raise PatchingError(
            f"{int(broken.sum())} of {values.numel()} values of {what} are not finite. Scan the weights: slm-interp verify."
        )
    return values


def baselines(slm: SpeechTextModel, contrasts: Sequence[Contrast], outcome: Outcome) -> tuple[list[float], list[float]]:
    """The outcome of every clean and of every corrupted prompt, nothing patched."""
    sides = (("clean", [one.clean for one in contrasts]), ("corrupted", [one.corrupted for one in contrasts]))
    clean, corrupted = ([measure(slm, one, c, outcome) for one, c in zip(prompts, contrasts, strict=True)] for _, prompts in sides)
    return clean, corrupted
