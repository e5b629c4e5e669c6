"""Training a tuned lens, in few tokens.

Belrose et al. 2023 (arXiv 2303.08112) train each translator by KL(final || lens) with SGD on 65.5 million tokens. The loss is theirs; the way down
is another, because each layer is a small problem of its own, an affine map with a nearly quadratic loss:

1. *Least squares.* The map from a layer's residuals to the final ones, from the first batches. This costs no unembedding. A layer keeps
   it if its held-out KL is below the logit lens's.
2. *Newton's steps on the KL*, with the curvature as a Kronecker product (`kronecker`), from exact gradients (`divergence`). Step `t` has the
   length `1 / (t + 4)`: a stochastic Newton method that averages over all it has seen and needs no schedule and no number of steps.
3. *Held-out KL* of every layer and modality is looked at again and again. A layer keeps the map with the lowest, and stops when it has
   not fallen for a while; a lens is never worse there than the logit lens.

All layers share one forward pass a row; logits exist for a block of rows of one layer. Maps, loss and curvature are in float32 (float64 for
float64 models), whatever the model is in.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from slm_interp.errors import ReadoutError
from slm_interp.lenses.probe.states import fingerprint_of
from slm_interp.lenses.tuned.aim import Aim
from slm_interp.lenses.tuned.data import MODALITIES, Batch, Rows, batch_of, batches, rows_of, sides
from slm_interp.lenses.tuned.divergence import MEMORY, Head, Target, gap, head_of, kl_of, target_of
from slm_interp.lenses.tuned.kronecker import coordinate_scale, least_squares, moment, moved, newton
from slm_interp.lenses.tuned.lens import TunedLens
from slm_interp.lenses.tuned.progress import Looked, Progress
from slm_interp.model import SpeechTextModel
from slm_interp.utterance import Utterance

LONGEST_MEMORY = 0.1  # of the curvature of outputs, which changes with the maps: a batch counts at least this much
BATCH_BY_DIMENSION, LARGEST_BATCH, FIRST_BY_DIMENSION = 6, 8192, 16
FIRST_RIDGE = 1e-3  # of least squares, in the scale of the inputs
EVERYTHING = Aim()
COLUMNS = ["step", "positions_seen", "layer", "modality", "kl"]


@dataclass(frozen=True)
class TunedRecipe:
    """How a lens is trained. The defaults serve; what it is trained on and for is the `Aim`.

    Args:
        batch: positions of a step; None is 6 for each dimension of the residuals, 8,192 at most.
        passes: over the rows, at most.
        least_squares: positions for the first guess; None is 16 for each dimension.
        offset: a step has the length `1 / (t + offset)`, t from 0.
        damping: of the curvature, see `kronecker.newton`.
        ridge: pull towards the logit lens, in the scale of the curvature.
        held_out: share of the rows that are looked at and not trained on.
        held_out_positions: at most so many.
        look_every: steps between two looks.
        patience: looks without a fall of the held-out KL by a thousandth, after which a layer stops.
        seed: of the side that is held out, of the order of the rows and of the curvature's draws.
        memory: bytes of a block of logits.

    Raises:
        ReadoutError: numbers that are out of range.
    """

    batch: int | None = None
    passes: int = 8
    least_squares: int | None = None
    offset: float = 4.0
    damping: float = 0.03
    ridge: float = 1e-4
    held_out: float = 0.1
    held_out_positions: int = 8192
    look_every: int = 4
    patience: int = 4
    seed: int = 0
    memory: int = MEMORY

    def __post_init__(self) -> None:
        counts = ("batch", "passes", "least_squares", "held_out_positions", "look_every", "patience", "memory")
        wrong = [name for name in counts if getattr(self, name) is not None and getattr(self, name) < 1]
        wrong += [name for name in ("offset", "damping") if not getattr(self, name) > 0] + (["ridge"] if self.ridge < 0 else [])
        if wrong:
            raise ReadoutError(f"A recipe's {wrong[0]} must be positive; got {getattr(self, wrong[0])}.")


def train_tuned(
    slm: SpeechTextModel,
    sequences: Iterable[Utterance | Int[Tensor, " _"]],
    aim: Aim = EVERYTHING,
    recipe: TunedRecipe = TunedRecipe(),
    layers: Sequence[int] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
) -> TunedLens:
    """A tuned lens of a model. The same arguments give the same lens, also where the training was stopped and gone on with.

    Args:
        slm: the model; it is not changed.
        sequences: utterances or rows of ids, which the model reads as they are. At least two of them differ.
        aim: what is trained on what.
        recipe: how.
        layers: those that get a translator, 0 (embedding) to `n_layers - 1`; None is all.
        checkpoint: a folder to keep the training in at every look, and to go on from.

    Raises:
        ReadoutError: layers, sequences or numbers that cannot be trained with, residuals that are not finite, a checkpoint of something else.
        UtteranceError, VocabularyError: a sequence this model cannot read.
    """
    chosen = _layers(layers, slm.model.cfg.n_layers)
    rows = rows_of(slm, sequences, aim)
    train, held = sides(rows, recipe.held_out, recipe.held_out_positions, recipe.seed)
    run = Run(slm, aim, recipe, chosen, train, held, head_of(slm, aim.ids(slm.vocabulary)))
    progress = run.fitted(None if checkpoint is None else Path(checkpoint))
    best = progress.best
    history = pd.DataFrame(progress.looks, columns=COLUMNS)
    trained = {**run.identity, "held_out": run.summary(history), "steps": progress.step, "positions_seen": progress.seen}
    weight, bias = best[..., :-1], best[..., -1] * progress.constant[:, None]
    return TunedLens(slm, tuple(chosen), weight.contiguous().cpu(), bias.contiguous().cpu(), aim, trained, history)


@dataclass(frozen=True, eq=False)
class Run:
    """A training: what is trained, how, and on what."""

    slm: SpeechTextModel
    aim: Aim
    recipe: TunedRecipe
    layers: list[int]
    train: Rows
    held: Rows
    head: Head

    @property
    def batch(self) -> int:
        """Positions of a step."""
        return self.recipe.batch or min(BATCH_BY_DIMENSION * self.slm.model.cfg.d_model, LARGEST_BATCH)

    @property
    def first(self) -> int:
        """Positions for the first guess."""
        return self.recipe.least_squares or FIRST_BY_DIMENSION * self.slm.model.cfg.d_model

    @property
    def identity(self) -> dict[str, object]:
        """What makes it this training and no other."""
        return {
            "fingerprint": fingerprint_of(self.slm),
            "layers": self.layers,
            "aim": str(self.aim),
            "recipe": asdict(self.recipe),
            "corpus": self.train.hash,
            "held_out_corpus": self.held.hash,
            "positions": self.train.positions,
            "held_out_positions": self.held.positions,
        }

    def fitted(self, folder: Path | None) -> Progress:
        """All steps there are, from where the folder stands."""
        device = self.head.W_U.device
        kept = None if folder is None else Progress.load(folder, self.identity, device)
        progress = kept or Progress.new(len(self.layers), self.slm.model.cfg.d_model, device, self.head.W_U.dtype)
        if kept is None:
            self._look(progress, range(len(self.layers)))
            self._first_guess(progress)
            self._look(progress, range(len(self.layers)))
            progress.map.copy_(progress.best)
        todo = self._steps()
        bar = tqdm(todo[progress.step :], initial=progress.step, total=len(todo), desc=f"tuned[{self.aim}]", unit="step", mininterval=2.0)
        for numbers in bar:
            active = [place for place in range(len(self.layers)) if progress.since_best[place] < self.recipe.patience]
            if not active:
                break
            self._step(progress, batch_of(self.slm, self.train, self.layers, numbers), active)
            if progress.step % self.recipe.look_every == 0 or progress.step == len(todo):
                self._look(progress, active)
                bar.set_postfix(held_out_kl=f"{float(progress.best_kl.mean()):.3f}", layers=len(active), refresh=False)
                if folder is not None:
                    progress.save(folder, self.identity)
        return progress

    def summary(self, history: pd.DataFrame) -> list[dict[str, object]]:
        """Of every layer and modality: held-out KL of the logit lens and of the lens that was kept."""
        total = history[history["modality"] == "all"]
        kept = total.loc[total.groupby("layer")["kl"].idxmin()].set_index("layer")["positions_seen"]
        rows = []
        for (layer, modality), part in history.groupby(["layer", "modality"], sort=True):
            chosen = part[part["positions_seen"] == kept[layer]]["kl"].min()
            rows.append({"layer": int(layer), "modality": str(modality), "logit_lens": float(part["kl"].iloc[0]), "kl": float(chosen)})
        return rows

    def _steps(self) -> list[list[int]]:
        """Rows of every step."""
        recipe = self.recipe
        return [some for epoch in range(recipe.passes) for some in batches(self.train, self.batch, recipe.seed, epoch)]

    def _first_guess(self, progress: Progress) -> None:
        """Step 1 of the top of this file."""
        products = torch.zeros_like(progress.map)
        seen = 0
        for numbers in batches(self.train, self.batch, self.recipe.seed, 0):
            batch = batch_of(self.slm, self.train, self.layers, numbers)
            seen += len(batch)
            for place, (inputs, weights) in self._inputs(progress, batch, range(len(self.layers))):
                missing = batch.final.to(inputs) - inputs[:, :-1]
                moved(progress.inputs[place], moment(inputs, weights), len(batch) / seen)
                moved(products[place], (missing * weights[:, None]).T @ inputs, len(batch) / seen)
            if seen >= self.first:
                break
        progress.seen += seen
        for place in range(len(self.layers)):
            progress.map[place] = least_squares(products[place], progress.inputs[place], FIRST_RIDGE, float(progress.input_scale[place]))

    def _step(self, progress: Progress, batch: Batch, active: Sequence[int]) -> None:
        """Step 2: one of Newton's steps for every layer that has not stopped."""
        recipe, target = self.recipe, self._target(batch, progress.step)
        for place, (inputs, weights) in self._inputs(progress, batch, active):
            here = gap(self.head, inputs[:, :-1] + inputs @ progress.map[place].T, target, recipe.memory)
            gradient = (here.gradient * weights[:, None]).T @ inputs
            before = -(-self.first // self.batch) + progress.step  # batches that made the moment so far
            moved(progress.inputs[place], moment(inputs, weights), 1 / (before + 1))
            moved(progress.outputs[place], moment(here.drawn, weights), max(LONGEST_MEMORY, 1 / (progress.step + 1)))
            scale = float(progress.input_scale[place])
            pull = recipe.ridge * scale * float(progress.outputs[place].diagonal().mean()) * progress.map[place]
            direction = newton(gradient + pull, progress.outputs[place], progress.inputs[place], recipe.damping, scale)
            progress.map[place] -= direction / (progress.step + recipe.offset)
        progress.step += 1
        progress.seen += len(batch)

    def _look(self, progress: Progress, active: Sequence[int]) -> None:
        """Step 3: held-out KL of layers, by modality; the best map of each is kept."""
        sums = torch.zeros(len(self.layers), len(MODALITIES), 2, dtype=torch.float64)
        weighted = torch.zeros(len(self.layers), 2, dtype=torch.float64)
        for numbers in _chunks(self.held, self.batch):
            batch = batch_of(self.slm, self.held, self.layers, numbers)
            target = self._target(batch, 0)
            for place, (inputs, weights) in self._inputs(progress, batch, active):
                kl = self._kl(inputs, progress.map[place], target).double()
                for number in range(len(MODALITIES)):
                    here = batch.modality == number
                    sums[place, number] += torch.tensor([float(kl[here].sum()), float(here.sum())], dtype=torch.float64)
                total = float(batch.weights.sum())
                weighted[place] += torch.tensor([float((kl * weights).sum()) * total, total], dtype=torch.float64)
        for place in active:
            mean = float(weighted[place, 0] / weighted[place, 1])
            if not mean == mean or mean == float("inf"):
                raise ReadoutError(f"The held-out KL of layer {self.layers[place]} is not finite. Scan the weights: slm-interp verify.")
            fell = mean < 0.999 * float(progress.best_kl[place])
            if mean < float(progress.best_kl[place]):
                progress.best_kl[place], progress.best[place] = mean, progress.map[place]
            progress.since_best[place] = 0 if fell else progress.since_best[place] + 1
            progress.looks += self._looks(progress, place, mean, sums[place])

    def _looks(self, progress: Progress, place: int, mean: float, sums: Float[Tensor, "modality 2"]) -> Iterator[Looked]:
        where = (progress.step, progress.seen, self.layers[place])
        yield (*where, "all", mean)
        for modality, (total, count) in zip(MODALITIES, sums.tolist(), strict=True):
            if count:
                yield (*where, modality, total / count)

    def _inputs(self, progress: Progress, batch: Batch, active: Iterable[int]) -> Iterator[tuple[int, tuple[Tensor, Tensor]]]:
        """Of each layer, by its place: residuals with the constant as their last coordinate, and weights that sum to 1."""
        weights = batch.weights.to(self.head.W_U)
        weights = weights / weights.sum()
        for place in active:
            resid = batch.resid[place].to(self.head.W_U)
            if not progress.constant[place]:
                scale = coordinate_scale(resid)
                progress.input_scale[place], progress.constant[place] = scale, max(scale, 1e-30) ** 0.5
            yield place, (torch.cat([resid, progress.constant[place].expand(len(resid), 1)], 1), weights)

    def _kl(
        self, inputs: Float[Tensor, "position input"], map_: Float[Tensor, "d_model input"], target: Target
    ) -> Float[Tensor, " position"]:
        return kl_of(self.head, inputs[:, :-1] + inputs @ map_.T, target, self.recipe.memory)

    def _target(self, batch: Batch, step: int) -> Target:
        generator = torch.Generator().manual_seed(1_000_003 * self.recipe.seed + step + 1)
        return target_of(self.head, batch.final, generator, self.recipe.memory)


def _layers(layers: Sequence[int] | None, n_layers: int) -> list[int]:
    chosen = list(range(n_layers)) if layers is None else sorted(set(layers))
    if not chosen or chosen[0] < 0 or chosen[-1] >= n_layers:
        raise ReadoutError(f"Translators stand at layers 0 (embedding) to {n_layers - 1}; got {list(layers or ())}.")
    return chosen


def _chunks(rows: Rows, size: int) -> Iterator[list[int]]:
    """All rows in order, together until a chunk has `size` positions."""
    chunk: list[int] = []
    for number in range(len(rows)):
        chunk.append(number)
        if sum(len(rows.weights[one]) for one in chunk) >= size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
