"""The tables, pictures and sounds of docs/organisms.md, made from the shipped weights.

    python docs/organisms/figures.py            all; the pictures need Chromium (see `slm_interp.plots.write_png`)

`ablation.csv` and `sounds.csv` beside this file are made by `slm-interp organism table` and `slm-interp organism sounds`; `*.txt` are
`ablation.csv` as the tables that the page includes.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
import torch

import slm_interp as si
from slm_interp import transcription
from slm_interp.files import atomic_path, write_text
from slm_interp.organisms import RECIPES, ablation, names
from slm_interp.plots import recall_by_position, write_png
from slm_interp.plots.theme import RULE, dressed
from slm_interp.speech.vocoder import UnitVocoder
from slm_interp.streams import repeats_are_merged

HERE = Path(__file__).parent
SENTENCES = 150
OFFSETS = range(-6, 9)
K = 10
SMOOTH = 50  # steps of a loss curve that are averaged
GENERATED = 60  # units
SHOWN = {"tiny": 10, "tiny-overlapped": 11, "tiny-supervised": 4}  # the layers whose curves are drawn


def main() -> None:
    """Everything, in order."""
    heard, spoken = [], []
    for name in names():
        slm, recipe = si.load(name), RECIPES[name]
        sentences = ablation.heard_sentences(slm, recipe, SENTENCES)
        position = transcription.by_position(slm, sentences, offsets=OFFSETS, k=K)
        if name in SHOWN:
            in_text = transcription.by_position(slm, sentences, offsets=OFFSETS, k=K, ranks="text")
            for found, among, suffix in ((position, "of all ids", ""), (in_text, "of text ids", "-text")):
                title = f"{name}: the current word among the {K} best {among}"
                write_png(recall_by_position(found, [SHOWN[name]], title), HERE / f"{name}{suffix}.png")
        columns = position[["recall", "low", "high", "words"]].to_dataframe().reset_index()
        heard.append(columns.assign(organism=name, null=position["null_recall"].mean("null").to_dataframe(name="null")["null"].to_numpy()))
        spoken.append(by_predictability(slm, sentences).assign(organism=name))
    pd.concat(heard).to_csv(HERE / "by_position.csv", index=False, float_format="%.4f")
    pd.concat(spoken).to_csv(HERE / "by_predictability.csv", index=False, float_format="%.4f")
    write_png(loss_curves(), HERE / "loss.png")
    tables()
    audio()


def tables() -> None:
    """`ablation.csv` in the paper's form, and what is known, as Markdown."""
    measured = pd.read_csv(HERE / "ablation.csv")
    for name, form in (("paper_form", ablation.paper_form), ("knowledge_form", ablation.knowledge_form)):
        wide = form(measured)
        wide = wide.assign(**{column: wide[column].map({True: "yes", False: "no"}) for column in wide.select_dtypes(bool)})
        rows = [list(wide.columns), ["---"] * len(wide.columns), *wide.astype(str).to_numpy().tolist()]
        write_text(HERE / f"{name}.txt", "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n")


def by_predictability(slm: si.SpeechTextModel, sentences: list[si.Utterance]) -> pd.DataFrame:
    """Recall in the word or the two units after it, by whether the text mode has the word among its ten best, by layer."""
    seen = transcription.observe(slm, sentences, window=transcription.span_and_after(2), nulls=("elsewhere",))
    seen = transcription.with_predictability(seen, slm, sentences)
    tables = [transcription.recall(seen, k=(1, K), by="predictability", ranks=ranks).assign(ranks=ranks) for ranks in ("joint", "text")]
    columns = ["ranks", "predictability", "layer", "k", "words", "recall", "low", "high", "null_elsewhere", "over_elsewhere_low"]
    return pd.concat(tables)[columns]


def loss_curves() -> go.Figure:
    """Smoothed loss of every phase of the organisms that ship; phases one after the other."""
    figure = go.Figure()
    for name in names():
        curve = pd.read_csv(si.organisms.path(name) / "loss.csv")
        figure.add_scatter(y=curve["loss"].rolling(SMOOTH, min_periods=1).mean(), mode="lines", name=name)
    figure.update_xaxes(title="step", zeroline=False)
    figure.update_yaxes(title="loss (nats a token, weighted)", gridcolor=RULE, range=[0, 4])
    return dressed(figure, title=f"Training loss, mean of {SMOOTH} steps", height=380, meta={"role": "curves", "head_px": 34})


def audio() -> None:
    """A held-out sentence as it was said, as its units sound, and half of it continued by the organism."""
    slm = si.load("tiny")
    sentences = ablation.heard_sentences(slm, RECIPES["tiny"], 60)
    vocoder = UnitVocoder.fit([one.audio for one in sentences if one.audio is not None], slm.quantiser, slm.quantiser.n_units)
    one = max(sentences, key=len)
    units = slm.quantiser.encode(one.audio)
    middle = one.words[len(one.words) // 2].span.start
    ids = continued(slm, one.tokens[:middle], vocoder.unheard)
    said = slm.vocabulary.id_to_unit(ids[1:]).numpy()  # after the marker
    for name, sound in {"said": one.audio, "units": vocoder.audio(units), "continued": vocoder.audio(vocoder.timed(said))}.items():
        with atomic_path(HERE / f"{name}.wav") as path:
            path.write_bytes(sound.wav_bytes())
    print(f"said: {one.name!r}; continued after {[word.text for word in one.words if word.span.stop <= middle]}")


@torch.no_grad()
def continued(slm: si.SpeechTextModel, ids: torch.Tensor, unheard: tuple[int, ...]) -> torch.Tensor:
    """`GENERATED` units more, drawn among the units the vocoder can say, seed 0."""
    generator = torch.Generator().manual_seed(0)
    mask = slm.vocabulary.mask("speech").clone()
    if unheard:
        mask[slm.vocabulary.unit_to_id(torch.tensor(unheard))] = False
    merged = repeats_are_merged(slm.vocabulary, [ids])
    for _ in range(GENERATED):
        logits = slm.model(ids[None], prepend_bos=False)[0, -1].float().masked_fill(~mask, float("-inf"))
        if merged:
            logits[ids[-1]] = float("-inf")
        ids = torch.cat([ids, torch.multinomial(logits.softmax(-1), 1, generator=generator)])
    return ids


if __name__ == "__main__":
    main()
