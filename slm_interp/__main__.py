"""The command line: parse, call, print. What a command does lives in the module it calls."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from slm_interp.errors import SlmInterpError
from slm_interp.files import write_text
from slm_interp.organism_commands import organism

cli = typer.Typer(help="Look inside interleaved speech-text language models.", no_args_is_help=True, add_completion=False)
cli.add_typer(organism, name="organism")

Checkpoint = Annotated[str, typer.Argument(help="A checkpoint folder, a packaged organism (tiny), or a hub id.")]
Tokenizer = Annotated[
    str | None, typer.Option(help="Tokenizer of the text ids: a folder or a hub id. Interleaved slamkit checkpoints need it.")
]
Family = Annotated[str | None, typer.Option(help="A family by name (`families` lists them), or a .toml or .yaml file that declares one.")]
Quantiser = Annotated[Path | None, typer.Option(help="Folder of the quantiser, where the checkpoint carries none.")]
PromptForm = Annotated[str | None, typer.Option(help="Prompt form; `inspect` lists them.")]
Units = Annotated[int | None, typer.Option(help="Units of the quantiser, where they are not the family's own number.")]


@cli.command()
def demo(out: Annotated[Path, typer.Option(help="Folder for the page.")] = Path("out/demo")) -> None:
    """Hear, align and read one synthesised and one recorded clip with the packaged organism."""
    from slm_interp.demo import run

    typer.echo(run(out))


@cli.command()
def families() -> None:
    """The families of checkpoints there are: units, prompt forms, licence."""
    from slm_interp.convert.families import families as known

    for one in known().values():
        typer.echo(f"{one.name}: {', '.join(one.units)}; forms {', '.join(one.forms)}. {one.licence}")


@cli.command()
def inspect(checkpoint: Checkpoint, text_tokenizer: Tokenizer = None, family: Family = None, n_units: Units = None) -> None:
    """Say what a checkpoint is and what will become of it, without reading a weight."""
    from slm_interp.convert import inspect as run

    typer.echo(run(checkpoint, text_tokenizer, family=family, n_units=n_units))


@cli.command()
def verify(
    checkpoint: Checkpoint,
    text_tokenizer: Tokenizer = None,
    family: Family = None,
    n_units: Units = None,
    length: Annotated[int, typer.Option(help="Positions in each test sequence.")] = 64,
    bound: Annotated[float, typer.Option(help="Largest difference allowed, over the reference's standard deviation.")] = 1e-4,
) -> None:
    """Compare the converted model with its Hugging Face source, layer by layer. Exits with 1 when it fails."""
    from slm_interp.convert import verify as run

    report = run(checkpoint, text_tokenizer, family=family, n_units=n_units, length=length, bound=bound)
    typer.echo(report)
    if not report.passed:
        raise typer.Exit(1)


@cli.command()
def lens(
    checkpoint: Checkpoint,
    wav: Annotated[Path, typer.Argument(help="A recording: WAV, FLAC, OGG.")],
    transcript: Annotated[str | None, typer.Option(help="The words spoken; they are aligned by force.")] = None,
    alignment: Annotated[
        Path | None, typer.Option(help="Word times instead of a transcript: .TextGrid, .ctm, .json (slamkit or Whisper).")
    ] = None,
    tier: Annotated[str, typer.Option(help="Tier of a TextGrid that holds the words.")] = "words",
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("lens.html"),
    text_tokenizer: Tokenizer = None,
    family: Family = None,
    quantiser: Quantiser = None,
    form: PromptForm = None,
    n_units: Units = None,
) -> None:
    """Read a recording with the logit lens and write one self-contained page."""
    from slm_interp import speech
    from slm_interp.convert import load
    from slm_interp.demo import lens_file

    carried = speech.load_quantiser(quantiser) if quantiser is not None else None
    slm = load(checkpoint, text_tokenizer, family=family, n_units=n_units, quantiser=carried)
    words = speech.read_words(alignment, tier) if alignment is not None else None
    typer.echo(lens_file(slm, wav, out, transcript, words, form))


@cli.command()
def patch(
    checkpoint: Checkpoint,
    out: Annotated[Path, typer.Option(help="The result: a netCDF file, and a table beside it as CSV.")] = Path("out/patching.nc"),
    kind: Annotated[str, typer.Option(help="Contrasts said aloud: names, facts, homophones, neighbours, voices.")] = "names",
    count: Annotated[int, typer.Option(help="Contrasts.")] = 8,
    site: Annotated[
        str, typer.Option(help="resid_pre, resid_mid, resid_post, attn_out, mlp_out, q, k, v, z, result, pattern.")
    ] = "resid_post",
    policy: Annotated[str, typer.Option(help="How spans of unequal length meet.")] = "end_aligned",
    direction: Annotated[str, typer.Option(help="denoising or noising.")] = "denoising",
    seed: Annotated[int, typer.Option(help="Of the contrasts.")] = 0,
    store: Annotated[Path | None, typer.Option(help="Folder for finished contrasts; a run goes on from it.")] = None,
) -> None:
    """Patch every word of contrasting prompts at every layer, in float32, and say what each carries."""
    import torch

    from slm_interp import patching
    from slm_interp.convert import load
    from slm_interp.organisms.contrasts import contrasts
    from slm_interp.organisms.world import World

    slm = load(checkpoint, dtype=torch.float32)
    named = {pair.name: pair.contrast for pair in contrasts(slm, World(seed=0), kind, count, seed=seed)}
    sweep = patching.activation(slm, named, site, policy=policy, direction=direction, store=store)  # type: ignore[arg-type]  # refuses another itself
    sweep.save(out)
    write_text(out.with_suffix(".csv"), sweep.to_dataframe().to_csv(index=False, float_format="%.5f"))
    typer.echo(sweep)


@cli.command()
def circuit(
    checkpoint: Checkpoint,
    out: Annotated[Path, typer.Option(help="Folder for the graph, tables and the page.")] = Path("out/circuit"),
    kind: Annotated[str, typer.Option(help="Contrasts said aloud and spliced: names, facts, homophones, neighbours, voices.")] = "names",
    count: Annotated[int, typer.Option(help="Contrasts.")] = 24,
    steps: Annotated[int, typer.Option(help="Of EAP-IG.")] = 5,
    seed: Annotated[int, typer.Option(help="Of the contrasts.")] = 0,
) -> None:
    """Score every edge on one half of spliced contrasts, in float32, and say how much the strongest carry on the other."""
    import torch

    from slm_interp.convert import load
    from slm_interp.organisms.contrasts import contrasts
    from slm_interp.organisms.splicing import spliced
    from slm_interp.organisms.world import World
    from slm_interp.report import circuit_files

    slm = load(checkpoint, dtype=torch.float32)
    typer.echo(circuit_files(slm, spliced(contrasts(slm, World(seed=0), kind, count, seed=seed)), out, steps))


@cli.command()
def tune(
    checkpoint: Checkpoint,
    source: Annotated[Path, typer.Argument(metavar="CORPUS", help="A folder of sounds, slamkit's .jsonl, a table, or a saved corpus.")],
    out: Annotated[Path, typer.Option(help="Folder for the lens; the training is kept in its folder `training`, and gone on with.")],
    positions: Annotated[
        str, typer.Option(help="Where to train: all, speech, text. At speech positions a lens learns to show speech.")
    ] = "all",
    among: Annotated[str, typer.Option(help="Ids that are compared: joint, speech, text.")] = "joint",
    weighting: Annotated[str, typer.Option(help="What counts alike: position, or modality.")] = "position",
    written: Annotated[bool, typer.Option(help="Read the words of each utterance as text too.")] = False,
    passes: Annotated[int, typer.Option(help="Over the corpus, at most.")] = 8,
    seed: Annotated[int, typer.Option(help="Of the held-out side and the order.")] = 0,
    text_tokenizer: Tokenizer = None,
    family: Family = None,
    n_units: Units = None,
) -> None:
    """Train a tuned lens on a corpus and keep it, with what it was trained on, for this model alone."""
    import pandas as pd

    from slm_interp.convert import load
    from slm_interp.lenses import Aim, TunedRecipe, train_tuned
    from slm_interp.speech.corpora import corpus

    aim = Aim(positions, among, weighting)  # type: ignore[arg-type]  # refuses any other word itself
    slm = load(checkpoint, text_tokenizer, family=family, n_units=n_units)
    heard = corpus(slm, source).utterances
    read = [slm.text_prompt(" " + " ".join(word.text for word in one.words)) for one in heard] if written else []
    found = train_tuned(slm, [*heard, *read], aim, TunedRecipe(passes=passes, seed=seed), checkpoint=out / "training")
    found.save(out)
    typer.echo(
        pd.DataFrame(found.trained["held_out"]).pivot(index="layer", columns="modality", values=["logit_lens", "kl"]).round(3).to_string()
    )
    typer.echo(f"{found!r}\n{out}")


@cli.command()
def transcription(
    checkpoint: Checkpoint,
    corpus: Annotated[
        str, typer.Argument(help="An organism's name for its samples; a folder of sounds, .jsonl, .parquet, or a saved corpus.json.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for tables, figures and page; given again, it is gone on with.")],
    lens: Annotated[str, typer.Option(help="`logit`, or the folder of a saved tuned or Jacobian lens.")] = "logit",
    k: Annotated[list[int], typer.Option(help="Decoded if among the k best. Give it several times.")] = [1, 10, 50],  # noqa: B006
    ranks: Annotated[str, typer.Option(help="Among all ids (`joint`) or among `text` ids.")] = "joint",
    nulls: Annotated[list[str], typer.Option(help="Which other words stand beside.")] = ["shuffled", "elsewhere", "frequency"],  # noqa: B006
    draws: Annotated[int, typer.Option(help="Words drawn for each null and place.")] = 5,
    jitter: Annotated[int, typer.Option(help="Ask again with word boundaries moved by up to so many positions.")] = 0,
    spelling: Annotated[str, typer.Option(help="`first_piece` of the word, or the best of its `variants`.")] = "first_piece",
    unspelled: Annotated[str, typer.Option(help="`refuse` words that cannot be spelled, or `drop` and count them.")] = "refuse",
    seed: Annotated[int, typer.Option(help="Of nulls, jitter and random vectors.")] = 0,
    limit: Annotated[int | None, typer.Option(help="Only the first so many utterances.")] = None,
    column: Annotated[list[str], typer.Option(help="For tables: words=alignment says which column is which. Give it several times.")] = [],  # noqa: B006
    pictures: Annotated[bool, typer.Option(help="Draw the figures as PNG too, where kaleido and a browser are there.")] = True,
    text_tokenizer: Tokenizer = None,
    family: Family = None,
    quantiser: Quantiser = None,
    form: PromptForm = None,
    n_units: Units = None,
) -> None:
    """Is the spoken word decodable as text, where, and beyond its nulls? Tables, figures and a page; resumable."""
    from slm_interp import speech
    from slm_interp.convert import load
    from slm_interp.report import Reading, asking_of, run, write_pictures

    carried = speech.load_quantiser(quantiser) if quantiser is not None else None
    slm = load(checkpoint, text_tokenizer, family=family, n_units=n_units, quantiser=carried)
    asking = asking_of(
        k=tuple(k), ranks=ranks, nulls=tuple(nulls), draws=draws, jitter=jitter, spelling=spelling, unspelled=unspelled, seed=seed
    )
    found = run(slm, Reading(corpus, tuple(column), carried, form, limit), out, lens, asking)
    typer.echo(found)
    if pictures:
        typer.echo(write_pictures(found.figures, out / "figures"))


@cli.command()
def causal(
    checkpoint: Checkpoint,
    contrasts: Annotated[
        str,
        typer.Argument(
            help="Of an organism: names, neighbours, homophones, next-names, next-neighbours. Else a .csv of words or of units, a .parquet of spoken "
            "facts, or an aligned corpus."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for verdict, tables, figures and page; given again, it is gone on with.")],
    lens: Annotated[
        str, typer.Option(help="Whose directions: logit, embedding, or folders of saved lenses and probes, with commas between them.")
    ] = "logit",
    preset: Annotated[str, typer.Option(help="`quick`: what the rule asks; `full`: every control.")] = "quick",
    layers: Annotated[str | None, typer.Option(help="After how many blocks: 3,4,6-8. All but the last if not given.")] = None,
    outcome: Annotated[str, typer.Option(help="What the verdict is about: the `onset` unit of the answer, or the whole `word`.")] = "onset",
    count: Annotated[int, typer.Option(help="Pairs drawn of an organism; at most so many cases of a file.")] = 48,
    policy: Annotated[str, typer.Option(help="How spans of unequal length meet.")] = "warped",
    dtype: Annotated[str, typer.Option(help="float32, float64, bfloat16, or `stored`.")] = "float32",
    seed: Annotated[int, typer.Option(help="Of contrasts, halves and random directions.")] = 0,
    column: Annotated[list[str], typer.Option(help="For tables: prompt=audio says which column is which. Give it several times.")] = [],  # noqa: B006
    recordings: Annotated[
        list[str], typer.Option(help="For a .csv of words: recordings that say its sentences, not eSpeak; a second one is another voice.")
    ] = [],  # noqa: B006
    speaker: Annotated[
        str | None, typer.Option(help="For a corpus: regular expression whose group in a clip's name is who speaks, as '^([0-9]+)-'.")
    ] = None,
    listen: Annotated[int, typer.Option(help="So many cases to hear on the page, before and after each intervention.")] = 0,
    vocoder: Annotated[Path | None, typer.Option(help="Folder of a saved UnitVocoder to hear them in; one is fitted if not given.")] = None,
    pictures: Annotated[bool, typer.Option(help="Draw the figures as PNG too, where kaleido and a browser are there.")] = True,
    text_tokenizer: Tokenizer = None,
    family: Family = None,
    quantiser: Quantiser = None,
    form: PromptForm = None,
    n_units: Units = None,
) -> None:
    """Does the text inside drive the speech that follows? A verdict by the written rule, every control beside it; resumable."""
    from slm_interp import speech
    from slm_interp.convert import load
    from slm_interp.report import write_pictures
    from slm_interp.report.causal import announced, causal_files
    from slm_interp.report.causal_asking import Source, dtype_of, plan_of
    from slm_interp.report.causal_listening import listening

    carried = speech.load_quantiser(quantiser) if quantiser is not None else None
    slm = load(checkpoint, text_tokenizer, family=family, n_units=n_units, quantiser=carried, dtype=dtype_of(dtype))
    built = Source(contrasts, count, seed, tuple(column), carried, form, recordings=tuple(recordings), speaker=speaker).cases(slm)
    plan = plan_of(slm, built, lens, preset, layers, outcome, seed, policy)
    hear = listening(slm, built, checkpoint, listen, vocoder)
    typer.echo(f"{slm!r}\n{announced(plan, built)}\n")
    found = causal_files(plan, built, out, hear)
    typer.echo(found)
    if pictures:
        typer.echo(write_pictures(found.figures, out / "figures"))


def app(arguments: list[str] | None = None) -> Any:
    """Run the command line; what the package refuses becomes one line and exit code 2."""
    try:
        return cli(arguments)
    except (SlmInterpError, ImportError) as error:
        typer.echo(f"slm-interp: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    app()
