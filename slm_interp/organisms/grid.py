"""The recipes: the main organism, the paper's training ablation, and those that differ from the main one in one thing each.

The ablation crosses what the model starts from (a text model, or random weights) with what it learns: speech alone,
speech and text, or a third, two thirds, five sixths interleaved with the rest halved between speech and text. All see
as many rows of as many tokens, with the same learning rates, the same world, the same sounds and the same joint vocabulary.
"""

from __future__ import annotations

from dataclasses import replace

from slm_interp.organisms.recipe import Phase, Recipe, Shape

Mix = tuple[float, float, float]

TEXT = Phase(steps=1500, spelled=0.0)
FIRST = Phase(steps=1100, mix=(0.2, 0.5, 0.3), spelled=0.0, misaligned_s=0.12, unmarked=0.5)
SECOND = replace(FIRST, steps=2000, mix=(0.15, 0.6, 0.25), unmarked=0.8, text_weight=3.0)

SPELLED = Phase(steps=1000, spelled=0.5, optimiser="muon", learning_rate=3e-3)
OVERLAPPED = replace(
    FIRST,
    steps=3000,
    mix=(0.05, 0.75, 0.2),
    optimiser="muon",
    learning_rate=3e-3,
    inherited=0.3,
    runs=(1, 2),
    misaligned_s=0.05,
    unmarked=0.8,
    overlapped=0.7,
    text_weight=3.0,
)
RECALLED = replace(OVERLAPPED, steps=1500, learning_rate=2e-3, inherited=1.0, above=0.0)

TINY = Recipe(name="tiny", note="text-initialised, interleaved", text_phase=TEXT, joint_phases=(FIRST, SECOND))
HEARS = replace(
    TINY,
    name="tiny-overlapped",
    note="speech gives way to text within the word that is then read; inherited weights move less at first",
    text_phase=SPELLED,
    joint_phases=(OVERLAPPED, RECALLED),
)

MIXES: dict[str, tuple[str, Mix]] = {
    "speech": ("speech alone", (0.0, 0.0, 1.0)),
    "unmixed": ("speech and text, none interleaved", (0.5, 0.0, 0.5)),
    "1-3": ("a third interleaved", (1 / 3, 1 / 3, 1 / 3)),
    "2-3": ("two thirds interleaved", (1 / 6, 2 / 3, 1 / 6)),
    "5-6": ("five sixths interleaved", (1 / 12, 5 / 6, 1 / 12)),
}


def changed(recipe: Recipe, name: str, note: str, **phase: object) -> Recipe:
    """A recipe with the same change in all its joint phases."""
    return replace(recipe, name=name, note=note, joint_phases=tuple(replace(one, **phase) for one in recipe.joint_phases))  # type: ignore[arg-type]


def ablation() -> list[Recipe]:
    """What it starts from x what it learns."""
    mixed = [changed(TINY, f"tiny-{name}", f"text-initialised, {note}", mix=mix) for name, (note, mix) in MIXES.items()]
    return [
        *mixed,
        *(
            replace(one, name=one.name.replace("tiny", "random"), note=one.note.replace("text-", "randomly "), text_phase=None)
            for one in mixed
        ),
    ]


VARIANTS = (
    replace(
        TINY,
        name="tiny-blurred",
        note="the main one trained for longer, with word boundaries twice as wrong",
        joint_phases=(FIRST, replace(SECOND, steps=6_000, misaligned_s=0.25)),
    ),
    HEARS,
    changed(HEARS, "tiny-overlapped-unmixed", "tiny-overlapped with speech and text, none interleaved", mix=MIXES["unmixed"][1]),
    changed(HEARS, "tiny-overlapped-speech", "tiny-overlapped with speech alone", mix=MIXES["speech"][1]),
    replace(HEARS, name="tiny-overlapped-seed-1", note="tiny-overlapped with another seed", seed=1),
    replace(TINY, name="tiny-seed-1", note="the main one with another seed", seed=1),
    replace(TINY, name="random", note="the main one from random weights", text_phase=None),
    changed(
        TINY, "tiny-aligned", "the main one with exact word boundaries and every change of modality marked", misaligned_s=0.0, unmarked=0.0
    ),
    replace(
        TINY,
        name="tiny-qwen2",
        note="the main one as a Qwen2 with untied embeddings and grouped keys",
        shape=Shape(architecture="qwen2", tied=False, n_key_value_heads=2),
    ),
    replace(
        TINY,
        name="tiny-supervised",
        note="the main one with its lens trained to say the heard word: a positive control, no evidence",
        joint_phases=(FIRST, replace(SECOND, heard_words=0.5)),
    ),
)

SEEDLING = Recipe(
    name="seedling",
    note="a minute's training, which shows nothing: to see that a recipe gives the same weights again",
    text_phase=replace(TEXT, steps=40, warm_up=10),
    joint_phases=(replace(FIRST, steps=40, warm_up=10),),
    documents=200,
    held_out=20,
    fitted_on=100,
    shape=Shape(d_model=64, n_layers=4, below=1, above=1, d_mlp=128),
)

RECIPES: dict[str, Recipe] = {one.name: one for one in (TINY, *ablation(), *VARIANTS, SEEDLING)}
