"""The command line of the organisms: `slm-interp organism list`, `train`, `table`, `sounds`. Parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slm_interp.files import write_text

organism = typer.Typer(help="The small models this project trains itself.", no_args_is_help=True)


@organism.command("list")
def organism_list() -> None:
    """The recipes there are."""
    from slm_interp.organisms import RECIPES, names

    for name, recipe in RECIPES.items():
        shape, phases = recipe.shape, [phase for phase in (recipe.text_phase, *recipe.joint_phases) if phase]
        ships = " (ships)" if name in names() else ""
        typer.echo(
            f"{name}{ships}: {recipe.note}. {shape.architecture}, {shape.n_layers} layers, d_model {shape.d_model}, "
            f"{' + '.join(str(phase.steps) for phase in phases)} steps, seed {recipe.seed}"
        )


@organism.command("train")
def organism_train(
    name: Annotated[str, typer.Argument(help="A recipe; `organism list` shows them.")],
    out: Annotated[Path, typer.Option(help="Folder for the finished organism.")],
    work: Annotated[
        Path | None, typer.Option(help="Folder for speech, text models and checkpoints; recipes may share it. OUT/work if not given.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Where to train: cpu, cuda. A GPU if there is one, if not given.")] = None,
    compiled: Annotated[bool, typer.Option(help="Compile the model first: half as long again as quick, needs a C++ compiler.")] = False,
) -> None:
    """Train an organism from its seed: speech, units, language model, slamkit folder. Goes on from what is in the working folder."""
    from slm_interp.organisms import Running, train

    typer.echo(train(name, out, work, Running(device, compiled=compiled)))


@organism.command("table")
def organism_table(
    names: Annotated[list[str] | None, typer.Argument(help="Organisms; all that ship if none is named.")] = None,
    out: Annotated[Path, typer.Option(help="The table to write, as CSV: one row for every organism and measure.")] = Path("ablation.csv"),
    trained: Annotated[Path | None, typer.Option(help="Folder of organisms you trained, one folder each by name.")] = None,
    sentences: Annotated[int, typer.Option(help="Held-out sentences.")] = 150,
    facts: Annotated[int, typer.Option(help="Pairs of facts of each kind for the forced choices.")] = 50,
    other_voices: Annotated[bool, typer.Option(help="Let voices speak that training never had.")] = False,
) -> None:
    """The training ablation in the paper's form: every measure of every organism beside its null, with intervals."""
    from slm_interp.organisms import ablation
    from slm_interp.organisms import names as shipped

    table = ablation.of(names or shipped(), trained, sentences, facts, "held_out" if other_voices else "training")
    write_text(out, table.to_csv(index=False, float_format="%.4f"))
    for form in (ablation.paper_form, ablation.knowledge_form):
        typer.echo(form(table).to_string(index=False) + "\n")


@organism.command("sounds")
def organism_sounds(
    name: Annotated[str, typer.Argument(help="An organism that ships.")] = "tiny",
    out: Annotated[Path | None, typer.Option(help="Also write the table here, as CSV.")] = None,
    documents: Annotated[int, typer.Option(help="Documents the recogniser learns from.")] = 2_000,
) -> None:
    """Units per word, and how well words can be told from units alone, in voices of training and in others."""
    from slm_interp.organisms import RECIPES, path
    from slm_interp.organisms.sounds import sounds
    from slm_interp.speech.acoustic import AcousticQuantiser

    found = sounds(RECIPES[name], AcousticQuantiser.load(path(name)), documents)
    if out is not None:
        write_text(out, found.to_csv(index=False, float_format="%.4f"))
    typer.echo(found.round(3).T.to_string(header=False))
