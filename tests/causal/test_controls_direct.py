"""What reaches the logits with later blocks frozen, against plain hooks that hold what each later block adds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from slm_interp import hooked
from slm_interp.causal.controls.direct import at_positions_frozen, direct, self_repair
from slm_interp.causal.controls.edits import Run, effects
from slm_interp.errors import PatchingError
from slm_interp.hooked.installed import MAJOR
from slm_interp.model import SpeechTextModel
from slm_interp.patching import outcomes
from slm_interp.utterance import Contrast
from tests.causal.controls_runs import LAST, SPAN, added, contrast_for, random_change, replica, run_of
from tests.patching.plain import logits_of, score

CLOSE = 1e-5 if MAJOR == 3 else 1e-2


@pytest.fixture
def equal(tiny_slm: SpeechTextModel) -> Contrast:
    return contrast_for(tiny_slm)


def held(run: Run, contrast: Contrast, layer: int, positions: list[int] | None) -> dict[int, list[tuple[str, Any]]]:
    """By row length: hooks that hold what every block from `layer` on adds at some positions (None: all) to what it adds in the run as it is."""
    found: dict[int, list[tuple[str, Any]]] = {}
    for name in ("answer", "distractor"):
        row = torch.cat([contrast.corrupted.tokens, run.outcome.targets(contrast)[name][:-1]])
        hooks = []
        for block in range(layer, run.n_layers):
            for site in ("attn_out", "mlp_out"):
                kept: list[Tensor] = []
                hook = hooked.hook_at(site, block)
                logits_of(run.slm, row, [(hook, lambda value, hook, kept=kept: kept.append(value.clone()))])

                def hold(value: Tensor, hook: Any, own: Tensor = kept[0]) -> Tensor:
                    value = value.clone()
                    chosen = slice(None) if positions is None else positions
                    value[:, chosen] = own[:, chosen]
                    return value

                hooks.append((hook, hold))
        found[len(row)] = hooks
    return found


def by_hooks(run: Run, contrast: Contrast, layer: int, positions: list[int], change: Tensor, where: list[int] | None) -> float:
    """The effect of a change with later blocks held, by hooks alone."""
    frozen = held(run, contrast, layer, where)
    put = added(hooked.hook_at("resid_post", layer), positions, change)
    ids, logits = run.outcome.ids(run.slm.vocabulary), {}
    for name, units in run.outcome.targets(contrast).items():
        row = torch.cat([contrast.corrupted.tokens, units[:-1]])
        logits[name] = logits_of(run.slm, row, [put, *frozen[len(row)]])[len(contrast.corrupted) - 1 :][: len(units)][:, ids][None]
    return float(run.gained(logits)[0])


@pytest.mark.parametrize("variant", ["llama", "qwen3-biases-tied", "opt", "gpt_neox"])
@pytest.mark.parametrize("units", [1, None])
def test_direct_is_what_hooks_find_that_hold_all_later_blocks(tmp_path: Path, variant: str, units: int | None) -> None:
    slm = replica(tmp_path, variant)
    contrast = contrast_for(slm)
    run = run_of(slm, contrast, outcomes.difference(units))
    for layer in (0, 2, 3):
        change = random_change(run, 2)
        positions = [5, 7]
        found = float(direct(run, layer, positions, change[None])[0])
        assert found == pytest.approx(by_hooks(run, contrast, layer, positions, change, None), abs=CLOSE)
        assert abs(found) > 0.01


@pytest.mark.parametrize("variant", ["llama", "opt", "gpt_neox"])
def test_frozen_at_its_positions_is_what_hooks_find_that_hold_later_blocks_there(tmp_path: Path, variant: str) -> None:
    slm = replica(tmp_path, variant)
    contrast = contrast_for(slm)
    run = run_of(slm, contrast)
    for layer, positions in ((0, SPAN), (1, [2, 4, 7]), (2, SPAN), (3, LAST)):
        change = random_change(run, len(positions))
        found = float(at_positions_frozen(run, layer, positions, change[None])[0])
        assert found == pytest.approx(by_hooks(run, contrast, layer, positions, change, positions), abs=CLOSE)


def test_after_the_last_block_all_of_an_effect_is_direct(tiny_slm: SpeechTextModel, equal: Contrast) -> None:
    run = run_of(tiny_slm, equal)
    changes = torch.stack([random_change(run, 1, seed=seed) for seed in range(3)])
    torch.testing.assert_close(direct(run, 3, LAST, changes), effects(run, 3, LAST, changes), atol=1e-4, rtol=1e-4)


def test_where_the_last_position_is_not_changed_nothing_is_direct(tiny_slm: SpeechTextModel, equal: Contrast) -> None:
    run = run_of(tiny_slm, equal)
    changes = random_change(run, len(SPAN))[None]
    assert direct(run, 1, SPAN, changes).tolist() == [0.0]
    assert abs(float(effects(run, 1, SPAN, changes)[0])) > 0.01


def test_at_the_last_position_frozen_is_direct(tiny_slm: SpeechTextModel, equal: Contrast) -> None:
    run = run_of(tiny_slm, equal, outcomes.difference(units=1))
    changes = random_change(run, 1)[None]
    for layer in range(4):
        torch.testing.assert_close(at_positions_frozen(run, layer, LAST, changes), direct(run, layer, LAST, changes), atol=1e-4, rtol=1e-4)


def test_self_repair_sets_the_free_effect_beside_the_frozen_one(tiny_slm: SpeechTextModel, equal: Contrast) -> None:
    run = run_of(tiny_slm, equal)
    change = random_change(run, len(SPAN))
    found = self_repair(run, 1, SPAN, change[None])
    hook = added(hooked.hook_at("resid_post", 1), SPAN, change)
    free = score(tiny_slm, equal.corrupted, equal, run.outcome, [hook]) - run.score
    assert float(found.free[0]) == pytest.approx(free, abs=1e-4)
    assert float(found.taken_back[0]) == pytest.approx(by_hooks(run, equal, 1, SPAN, change, SPAN) - free, abs=1e-4)


def test_several_changes_at_once_are_each_its_own(tiny_slm: SpeechTextModel, equal: Contrast) -> None:
    run = run_of(tiny_slm, equal)
    changes = torch.stack([random_change(run, 2, seed=seed) for seed in range(3)])
    for function in (direct, at_positions_frozen):
        together, alone = function(run, 1, [5, 7], changes), [function(run, 1, [5, 7], one[None]) for one in changes]
        torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)
        assert len(set(together.tolist())) == 3


def test_a_bfloat16_model_is_read_too(tmp_path: Path) -> None:
    slm = replica(tmp_path, "llama", torch.bfloat16)
    run = run_of(slm, contrast_for(slm))
    changes = random_change(run, 1)[None]
    assert direct(run, 3, LAST, changes).isfinite().all() and at_positions_frozen(run, 1, LAST, changes).isfinite().all()
    torch.testing.assert_close(direct(run, 3, LAST, changes), effects(run, 3, LAST, changes), atol=0.1, rtol=0.05)


def test_changes_that_do_not_fit_are_refused(tiny_slm: SpeechTextModel, equal: Contrast, as_users_run_it: None) -> None:
    run = run_of(tiny_slm, equal)
    for function in (direct, at_positions_frozen, effects):
        with pytest.raises(PatchingError, match="one finite vector for each position"):
            function(run, 1, SPAN, torch.ones(1, 2, 24))
        with pytest.raises(PatchingError, match="one position or more of the prompt's 0..7"):
            function(run, 1, [8], torch.ones(1, 1, 24))
