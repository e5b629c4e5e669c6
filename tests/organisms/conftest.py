"""A toy organism: the whole way from a recipe to a slamkit folder, in a few seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from slm_interp.organisms.corpus import load
from slm_interp.organisms.material import Material
from slm_interp.organisms.recipe import Phase, Recipe, Shape, Speaking
from slm_interp.organisms.tokens import Speller, joint_vocabulary, text_tokenizer
from slm_interp.organisms.training import train_organism
from slm_interp.organisms.world import World
from slm_interp.speech.acoustic import AcousticQuantiser, AcousticRecipe

TOY = Recipe(
    name="toy",
    text_phase=Phase(steps=4, rows=2, length=48, warm_up=2),
    joint_phases=(
        Phase(steps=6, rows=2, length=48, warm_up=2, mix=(0.2, 0.5, 0.3)),
        Phase(steps=3, rows=2, length=48, warm_up=1, mix=(0.2, 0.5, 0.3), spelled=0.0),
    ),
    sentences=30,
    held_out=6,
    fitted_on=12,
    world=World(names=("anna", "ben", "carla")),
    speaking=Speaking(voices=("en-us", "en-us+f3"), rates=(180,), pitches=(50,)),
    quantiser=AcousticRecipe(n_units=24),
    shape=Shape(d_model=16, n_layers=2, n_heads=2, d_mlp=24, n_ctx=128),
)


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    """The toy organism's."""
    return TOY


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy organism's folder; `work` inside it holds corpus and checkpoint."""
    return train_organism(TOY, tmp_path_factory.mktemp("toy"), device="cpu", processes=1)


@pytest.fixture(scope="session")
def material(toy: Path) -> Material:
    """What the toy organism was trained on."""
    quantiser = AcousticQuantiser.load(toy)
    tokenizer = text_tokenizer(TOY.world.lexicon)
    vocabulary = joint_vocabulary(len(tokenizer), quantiser.n_units, quantiser.hash)
    return Material(load(toy / "work" / "train.safetensors", quantiser), Speller(tokenizer, TOY.world.lexicon), vocabulary)
