"""Fitting the Jacobian lens: how the last residuals move with those of a layer, averaged over positions and prompts.

The estimator is that of the reference implementation (anthropics/jacobian-lens, `jlens/fitting.py`), which TransformerLens 4.3
(`tools/analysis/jacobian_lens.py`) repeats and 3.9 offers for `TransformerBridge` only:

1. A prompt is cut to its first `max_seq_len` (128) positions. Its valid positions V are all but the first `skip_first_positions` (16,
   where attention sinks sit) and the last (which has no next token). A prompt without any is left out and counted.
2. One forward run of the prompt, `dim_batch` copies side by side, keeps the graph from the first source layer to the last residual,
   before the final norm.
3. Each backward run takes `dim_batch` output dimensions: copy b has a 1 at output dimension b, at *every* valid position at once. So the
   gradient at source position t is the *sum* over valid target positions t' (attention is causal: over t' >= t) of `d last[t'] / d resid_l[t]`.
   One run serves all source layers; `d_model / dim_batch` of them, rounded up, make the whole matrices.
4. Gradients are *averaged* over the valid source positions, in float32 whatever the model's dtype:
   `J_l(prompt) = 1/|V| sum_{t in V} sum_{t' in V, t' >= t} d last[t'] / d resid_l[t]`.
5. Prompts are averaged with equal weight, whatever their length. Nothing is random.

Because step 3 sums over targets, the scale of J grows with the length of the prompts; the final norm takes the scale out of a reading.

Declared here, and not in the reference:

- Source and target positions may be restricted to speech or to text *input ids* (`sources`, `targets`); markers are in `"all"` alone.
  Sources with no target at or after them are then left out of the average.
- Layer 0, the embedding, is fitted like the others.
- Prompts are dealt alternately into two halves, and the sums of each are kept when it has 1, 2, 4, 8, ... prompts, so that convergence
  can be told from agreement of the lens with itself (`convergence.py`).
- With a folder, sums are written whole or not at all after every few prompts, and a fit that was cut off goes on to the same bits.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from slm_interp import hooked
from slm_interp.errors import ReadoutError
from slm_interp.files import atomic_path
from slm_interp.lenses.jacobian.lens import JacobianLens
from slm_interp.lenses.probe.states import fingerprint_of
from slm_interp.model import SpeechTextModel
from slm_interp.utterance import Utterance

Positions: TypeAlias = Literal["all", "speech", "text"]
Prompt: TypeAlias = Utterance | Int[Tensor, " _"]

STATE = "sums.safetensors"


@dataclass(frozen=True)
class JacobianRecipe:
    """What is averaged. The defaults are the published ones.

    Args:
        sources: positions whose residuals are moved, by the kind of their id.
        targets: positions whose last residuals are watched.
        skip_first_positions: left out at the start of every prompt, as sources and as targets.
        max_seq_len: where prompts are cut.

    Raises:
        ReadoutError: another kind of position, or lengths that leave nothing.
    """

    sources: Positions = "all"
    targets: Positions = "all"
    skip_first_positions: int = 16
    max_seq_len: int = 128

    def __post_init__(self) -> None:
        for kind in (self.sources, self.targets):
            if kind not in get_args(Positions):
                raise ReadoutError(f"Positions of a Jacobian lens are {', '.join(get_args(Positions))}; got {kind!r}.")
        if self.skip_first_positions < 0 or self.max_seq_len < self.skip_first_positions + 2:
            raise ReadoutError(
                f"Prompts of max_seq_len={self.max_seq_len} positions have none between the first skip_first_positions="
                f"{self.skip_first_positions} and the last."
            )

    def positions(self, slm: SpeechTextModel, tokens: Int[Tensor, " pos"]) -> tuple[Int[Tensor, " source"], Int[Tensor, " target"]]:
        """Source and target positions of a prompt that is cut already; sources after the last target move nothing and are left out."""
        valid = torch.zeros(len(tokens), dtype=torch.bool)
        valid[self.skip_first_positions : len(tokens) - 1] = True
        both = [valid & (True if kind == "all" else slm.vocabulary.mask(kind)[tokens.cpu()]) for kind in (self.sources, self.targets)]
        source, target = (mask.nonzero().flatten() for mask in both)
        if not len(source) or not len(target) or target[-1] < source[0]:
            return source[:0], target[:0]
        return source[source <= target[-1]], target


@dataclass(frozen=True, eq=False)
class JacobianFit:
    """Sums of Jacobians over the prompts of two halves, and what they were when the halves were smaller. Make one with `fit_jacobian`.

    Args:
        sums: of all prompts, by half.
        counts: prompts in each half.
        snapshots: prompts in each half, to the sums at that time or the file that holds them.
        prompts: keys of the prompts that were averaged.
        fitted: what a lens made of this says about itself.
    """

    slm: SpeechTextModel
    layers: tuple[int, ...]
    sums: Float[Tensor, "half layer d_out d_in"]
    counts: tuple[int, int]
    snapshots: Mapping[int, Tensor | Path]
    prompts: frozenset[str]
    fitted: Mapping[str, Any]

    def lens(self) -> JacobianLens:
        """The lens: the mean over all prompts."""
        return self._lens(self.sums.sum(0), sum(self.counts))

    def half(self, which: int) -> JacobianLens:
        """The mean over one half of the prompts, 0 or 1.

        Raises:
            ReadoutError: a half without prompts.
        """
        return self._lens(self.sums[which], self.counts[which])

    def at(self, each: int) -> tuple[Float[Tensor, "layer d_out d_in"], Float[Tensor, "layer d_out d_in"]]:
        """The means of both halves when each had so many prompts; `snapshots` has the numbers.

        Raises:
            ReadoutError: a number that was not kept.
        """
        if each not in self.snapshots:
            raise ReadoutError(f"Sums were kept at {sorted(self.snapshots)} prompts in each half; got {each}.")
        kept = self.snapshots[each]
        sums = kept if isinstance(kept, Tensor) else _read(kept)[0]
        return sums[0] / each, sums[1] / each

    def _lens(self, sums: Tensor, count: int) -> JacobianLens:
        if not count:
            raise ReadoutError("There is no prompt in this half. Fit on two prompts at least.")
        return JacobianLens(self.slm, self.layers, sums / count, {**self.fitted, "n_prompts": count})

    def __repr__(self) -> str:
        return f"JacobianFit({sum(self.counts)} prompts in two halves, kept at {sorted(self.snapshots)} each, layers {list(self.layers)})"


def jacobians_of(
    slm: SpeechTextModel, prompt: Prompt, layers: Sequence[int], recipe: JacobianRecipe | None = None, dim_batch: int = 8
) -> Float[Tensor, "layer d_out d_in"]:
    """Mean Jacobians of one prompt: steps 1 to 4 of the estimator, exactly.

    Args:
        layers: source layers, ascending, 0 to n_layers - 1.
        dim_batch: output dimensions of one backward run; the prompt is run so many times side by side. More is faster and takes more
            memory, and changes nothing else.

    Raises:
        ReadoutError: a prompt without positions, gradients that are not finite, a model in training mode.
    """
    recipe = recipe or JacobianRecipe()
    tokens = _tokens(slm, prompt)[: recipe.max_seq_len]
    source, target = recipe.positions(slm, tokens)
    if not len(source):
        raise ReadoutError(f"This prompt of {len(tokens)} positions has none for {recipe}. Lower skip_first_positions, or leave it out.")
    W_U, d_model = hooked.unembedding(slm.model).W_U, slm.model.cfg.d_model
    device, wide = W_U.device, torch.promote_types(W_U.dtype, torch.float32)
    tokens, source, target = tokens.to(device), source.to(device), target.to(device)
    found = torch.empty(len(layers), d_model, d_model, dtype=wide)
    with hooked.frozen(slm.model):
        stream = hooked.differentiable_residuals(slm.model, tokens.expand(min(dim_batch, d_model), -1), first=layers[0])
        last, residuals = stream[-1], [stream[layer - layers[0]] for layer in layers]
        for start in range(0, d_model, dim_batch):
            rows = slice(start, min(start + dim_batch, d_model))
            copies = torch.arange(rows.stop - start, device=device)
            ones = torch.zeros_like(last)
            ones[copies[:, None], target, start + copies[:, None]] = 1
            gradients = torch.autograd.grad(last, residuals, ones, retain_graph=rows.stop < d_model)
            for index, gradient in enumerate(gradients):
                found[index, rows] = gradient[: len(copies), source].to(wide).mean(1).cpu()
    return _finite(found, layers)


def fit_jacobian(
    slm: SpeechTextModel,
    prompts: Iterable[Prompt],
    recipe: JacobianRecipe | None = None,
    layers: Sequence[int] | None = None,
    dim_batch: int = 8,
    folder: str | os.PathLike[str] | None = None,
    save_every: int = 10,
) -> JacobianFit:
    """Average the Jacobians of prompts; `.lens()` of the result is the lens.

    About 100 prompts of 128 positions are usable, and 1000 were published. The progress bar says how far the two halves lie apart
    (relative Frobenius distance, worst layer). Gradients have the dtype of the model: load it in float32 to fit, the lens then serves
    the same checkpoint in any dtype.

    Args:
        prompts: utterances, or rows of ids. Too short ones are left out; `fitted["left_out"]` says how many.
        recipe: which positions; the published ones if not given.
        layers: blocks run, 0 (embedding) to n_layers - 1; None is all of them.
        dim_batch: see `jacobians_of`.
        folder: where sums are written, and where a fit that was cut off goes on. Without one, everything is kept in memory:
            `2 + 2 log2(prompts / 2)` times the lens.
        save_every: prompts between writing the sums.

    Raises:
        ReadoutError: no prompt with a position, layers that are not there, gradients that are not finite, or a folder in which something
            else was begun.
        UtteranceError, VocabularyError: a prompt this model cannot read.
    """
    recipe = recipe or JacobianRecipe()
    rows, chosen = [_tokens(slm, one) for one in prompts], _layers(layers, slm.model.cfg.n_layers)
    if dim_batch < 1 or save_every < 1:
        raise ReadoutError(f"dim_batch and save_every count from 1; got {dim_batch} and {save_every}.")
    kept = [one for one in rows if len(recipe.positions(slm, one[: recipe.max_seq_len])[0])]
    if not kept:
        raise ReadoutError(
            f"None of {len(rows)} prompts has a position for {recipe}. Give longer ones, lower skip_first_positions, or choose others."
        )
    fitted = {
        **asdict(recipe),
        "corpus": corpus_hash(kept),
        "left_out": len(rows) - len(kept),
        "fit_dtype": str(hooked.unembedding(slm.model).W_U.dtype).removeprefix("torch."),
        "fingerprint": fingerprint_of(slm),
        "checkpoint": str(slm.provenance.get("checkpoint", "")),
    }
    running = _Running.begun(slm, chosen, {**fitted, "layers": chosen}, None if folder is None else Path(folder))
    with tqdm(total=len(kept), initial=running.done, desc="Jacobians", unit="prompt") as bar:
        for tokens in kept[running.done :]:
            running.add(jacobians_of(slm, tokens, chosen, recipe, dim_batch))
            if running.done % save_every == 0 or running.done == len(kept):
                running.write()
                bar.set_postfix_str(f"halves differ by {running.apart():.3f}" if running.done > 1 else "")
            bar.update()
    keys = frozenset(key_of(one) for one in kept)
    return JacobianFit(slm, tuple(chosen), running.sums, running.counts, running.snapshots, keys, fitted)


def key_of(tokens: Int[Tensor, " pos"]) -> str:
    """What tells one prompt from another: the first 16 hex digits of SHA-256 over its ids."""
    return hashlib.sha256(tokens.to(torch.int64).cpu().numpy().astype("<i8").tobytes()).hexdigest()[:16]


def corpus_hash(prompts: Sequence[Int[Tensor, " _"]]) -> str:
    """What tells one list of prompts from another, order included."""
    return hashlib.sha256(" ".join(key_of(one) for one in prompts).encode()).hexdigest()[:16]


def relative_distance(one: Float[Tensor, "*layer d_out d_in"], other: Float[Tensor, "*layer d_out d_in"]) -> Float[Tensor, "*layer"]:
    """Frobenius norm of the difference over that of `other`."""
    return torch.linalg.matrix_norm(one.double() - other.double()) / torch.linalg.matrix_norm(other.double())


@dataclass
class _Running:
    """Sums so far. Prompt i belongs to half `i % 2`; `choices` must be the same when a fit goes on."""

    sums: Tensor
    done: int
    snapshots: dict[int, Tensor | Path]
    folder: Path | None
    choices: str

    @staticmethod
    def begun(slm: SpeechTextModel, layers: Sequence[int], choices: Mapping[str, Any], folder: Path | None) -> _Running:
        said = json.dumps(dict(choices), sort_keys=True)
        if folder is not None and (folder / STATE).is_file():
            sums, about = _read(folder / STATE)
            if about["choices"] != said:
                raise ReadoutError(
                    f"{folder} holds a fit begun with {about['choices']}, not with {said}. Go on with the same prompts, model and recipe, "
                    "or give another folder."
                )
            done = int(about["done"])
            there = {int(path.stem.split("-")[1]): path for path in folder.glob("sums-*.safetensors")}
            return _Running(sums, done, {each: path for each, path in sorted(there.items()) if 2 * each <= done}, folder, said)
        d_model, wide = slm.model.cfg.d_model, torch.promote_types(hooked.unembedding(slm.model).W_U.dtype, torch.float32)
        return _Running(torch.zeros(2, len(layers), d_model, d_model, dtype=wide), 0, {}, folder, said)

    @property
    def counts(self) -> tuple[int, int]:
        return (self.done + 1) // 2, self.done // 2

    def add(self, jacobians: Float[Tensor, "layer d_out d_in"]) -> None:
        self.sums[self.done % 2] += jacobians
        self.done += 1
        each, odd = divmod(self.done, 2)
        if not odd and each & (each - 1) == 0:
            if self.folder is None:
                self.snapshots[each] = self.sums.clone()
            else:
                self.snapshots[each] = self.folder / f"sums-{each}.safetensors"
                self._save(self.folder / f"sums-{each}.safetensors")

    def write(self) -> None:
        if self.folder is not None:
            self._save(self.folder / STATE)

    def apart(self) -> float:
        first, second = (one / count for one, count in zip(self.sums, self.counts, strict=True))
        return float(relative_distance(first, second).max())

    def _save(self, path: Path) -> None:
        from safetensors.torch import save_file

        with atomic_path(path) as temporary:
            save_file({"sums": self.sums}, temporary, metadata={"done": str(self.done), "choices": self.choices})


def _read(path: Path) -> tuple[Float[Tensor, "half layer d_out d_in"], dict[str, str]]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return file.get_tensor("sums"), file.metadata()


def _tokens(slm: SpeechTextModel, prompt: Prompt) -> Int[Tensor, " pos"]:
    if isinstance(prompt, Utterance):
        return slm.check(prompt).tokens
    slm.vocabulary.check_ids(prompt)
    return prompt.long()


def _layers(layers: Sequence[int] | None, n_layers: int) -> list[int]:
    chosen = list(range(n_layers)) if layers is None else sorted(set(layers))
    if not chosen or chosen[0] < 0 or chosen[-1] >= n_layers:
        raise ReadoutError(
            f"Jacobians lead from layers 0 (embedding) to {n_layers - 1} to the last one, {n_layers}, from which it is the identity; "
            f"got {list(layers or ())}."
        )
    return chosen


def _finite(found: Float[Tensor, "layer d_out d_in"], layers: Sequence[int]) -> Float[Tensor, "layer d_out d_in"]:
    broken = [layer for layer, one in zip(layers, found, strict=True) if not one.isfinite().all()]
    if broken:
        raise ReadoutError(f"Gradients from layers {broken} are not finite. Scan the weights: slm-interp verify; or load in float32.")
    return found
