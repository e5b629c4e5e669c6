"""The toy recipe, and a checkpoint read back without slm_interp."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from slm_interp.organisms.recipe import Phase, Recipe, Shape, Speaking
from slm_interp.organisms.training import Running
from slm_interp.organisms.world import World
from slm_interp.speech.acoustic import AcousticRecipe

CPU = Running("cpu")  # where every machine computes the same
MIX = (0.2, 0.5, 0.3)
TOY = Recipe(
    name="toy",
    note="for tests",
    text_phase=Phase(steps=4, rows=2, length=48, warm_up=2),
    joint_phases=(
        Phase(steps=6, rows=2, length=48, warm_up=2, mix=MIX),
        Phase(steps=3, rows=2, length=48, warm_up=1, mix=MIX, spelled=0.0),
    ),
    documents=12,
    held_out=6,
    fitted_on=5,
    text_tokens=400,
    world=World(length=(2, 3)),
    speaking=Speaking(voices=("en-us", "en-us+f3"), held_out=("en-gb+m2",), rates=(180,), pitches=(50,)),
    quantiser=AcousticRecipe(n_units=24),
    shape=Shape(d_model=16, n_layers=4, below=1, above=1, n_heads=2, n_key_value_heads=2, d_mlp=24, n_ctx=128),
)


def as_hugging_face(folder: Path) -> Any:
    """The keys without `lm.`, the base configuration as it stands."""
    base = json.loads((folder / "config.json").read_text())["base_config"]
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**base))
    state = {name.removeprefix("lm."): tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert set(missing) <= ({"lm_head.weight"} if base["tie_word_embeddings"] else set())
    return model.float().eval()
