"""EAP with integrated gradients: the gradients of EAP averaged on the way from the source run to the base run.

| variant | runs | what is replaced |
|---|---|---|
| *inputs* | steps 0, ..., m - 1 | the input, by `source + step/m (base - source)`; the rest follows. One step takes the gradient at the source input |
| *activations* | for every block's attention, every MLP and the input: steps 1, ..., m | what it writes, by the same mixture; what comes later follows |

Scores are means over all runs, also over those that replaced other nodes, as in the implementation that the authors published
(github.com/hannamw/EAP-IG, without its code): `docs/circuits.md` has both side by side. Hanna, Pezzelle, Belinkov 2024 (arXiv 2403.17806).

Where the prompts differ in length the source is what the pairing puts at base positions, so step 0 is no prompt that was ever read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from slm_interp import hooked
from slm_interp.circuits.edges import attributed
from slm_interp.circuits.gradients import INPUT
from slm_interp.circuits.graph import Graph
from slm_interp.circuits.task import Pair, Task
from slm_interp.circuits.values import Values
from slm_interp.errors import PatchingError

STEPS = 5


def eap_ig(task: Task, steps: int = STEPS) -> Graph:
    """EAP-IG, *inputs*: `steps` runs with gradients for each contrast.

    Raises:
        PatchingError: no steps; as `eap`.
    """
    _check(steps)

    def points(base: Values, source: Values, pair: Pair) -> Iterator[Mapping[str, Tensor]]:
        change = pair.changed(hooked.widened(source.input), hooked.widened(base.input))
        for step in range(steps):
            yield {INPUT: base.input + (1 - step / steps) * change}

    return attributed(task, f"EAP-IG (inputs, {steps} steps)", points)


def eap_ig_activations(task: Task, steps: int = STEPS) -> Graph:
    """EAP-IG, *activations*: `steps * (1 + 2 n_layers)` runs with gradients for each contrast.

    Raises:
        PatchingError: no steps; as `eap`.
    """
    _check(steps)

    def points(base: Values, source: Values, pair: Pair) -> Iterator[Mapping[str, Tensor]]:
        places = {INPUT: (base.input, source.input)}
        for layer in range(task.shape.n_layers):
            places[hooked.hook_at("z", layer)] = base.z[layer], source.z[layer]
            if base.mlp:
                places[hooked.hook_at("mlp_out", layer)] = base.mlp[layer], source.mlp[layer]
        for name, (here, there) in places.items():
            change = pair.changed(hooked.widened(there), hooked.widened(here))
            for step in range(1, steps + 1):
                yield {name: here + (1 - step / steps) * change}

    return attributed(task, f"EAP-IG (activations, {steps} steps)", points)


def _check(steps: int) -> None:
    if steps < 1:
        raise PatchingError(f"Integrated gradients take one step or more; got {steps}.")
