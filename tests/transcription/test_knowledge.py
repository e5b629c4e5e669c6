"""Two-way forced choice against a model whose preferences are known."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
import torch

from slm_interp import metrics
from slm_interp.errors import ReadoutError, StatisticsError, VocabularyError
from slm_interp.transcription import Choice, accuracy, forced_choice, paired


def units(slm, *numbers: int) -> torch.Tensor:
    return slm.vocabulary.unit_to_id(torch.tensor(numbers))


def choice(slm, prompt, right, wrong, name="item", cluster="one") -> Choice:
    return Choice(prompt, units(slm, *right), units(slm, *wrong), name, cluster)


@pytest.mark.parametrize("among", ["speech", "joint"])
@pytest.mark.parametrize("normalise", ["sum", "mean"])
def test_a_continuation_has_the_log_probability_of_each_id_after_all_before_it(tiny_slm, corpus, among, normalise):
    one = choice(tiny_slm, corpus[0], (3, 4, 5), (6, 7))
    row = forced_choice(tiny_slm, [one], normalise, among).iloc[0]
    mask = tiny_slm.vocabulary.mask("speech") if among == "speech" else None
    for column, ids in (("log_p_right", one.right), ("log_p_wrong", one.wrong)):
        tokens, parts = corpus[0].tokens, []
        for identifier in ids:
            logits = tiny_slm.model(tokens[None], return_type="logits", prepend_bos=False)[0, -1].detach()
            parts.append(float(metrics.log_probs(logits, mask)[identifier]))
            tokens = torch.cat([tokens, identifier[None]])
        expected = sum(parts) if normalise == "sum" else np.mean(parts)
        assert row[column] == pytest.approx(expected, rel=1e-4)
    assert row["margin"] == pytest.approx(row["log_p_right"] - row["log_p_wrong"])
    assert row["correct"] == float(row["margin"] > 0)


def test_a_table_says_where_it_comes_from(tiny_slm, corpus):
    attrs = forced_choice(tiny_slm, [choice(tiny_slm, corpus[0], (3,), (4,))], "mean").attrs
    assert (attrs["normalise"], attrs["among"]) == ("mean", "speech") and "provenance_json" in attrs


def test_exchanging_right_and_wrong_exchanges_the_verdict(tiny_slm, corpus):
    table = forced_choice(tiny_slm, [choice(tiny_slm, corpus[0], (3, 4), (5, 6)), choice(tiny_slm, corpus[0], (5, 6), (3, 4))])
    assert table["correct"].sum() == 1
    assert table["margin"].sum() == pytest.approx(0)


def test_equally_likely_continuations_are_half_correct(planted_slm, corpus):
    (row,) = forced_choice(planted_slm, [choice(planted_slm, corpus[0], (13,), (14,))]).itertuples()
    assert (row.margin, row.correct) == (0, 0.5)


def test_length_weighs_in_the_sum_and_not_in_the_mean(planted_slm, corpus):
    """Silence, after which every unit is equally likely."""
    one = choice(planted_slm, corpus[0], (13,), (14, 15))
    assert forced_choice(planted_slm, [one], "sum")["correct"].item() == 1
    assert forced_choice(planted_slm, [one], "mean")["correct"].item() == 0.5


def test_a_pair_s_margin_is_free_of_what_its_continuations_cost(tiny_slm, corpus):
    """Both prompts the same: whichever continuation is easier, the interaction is nothing."""
    same = [choice(tiny_slm, corpus[0], (3, 4), (5, 6), "a"), choice(tiny_slm, corpus[0], (5, 6), (3, 4), "b")]
    table = forced_choice(tiny_slm, same)
    assert abs(table["margin"].iloc[0]) > 0.01
    assert paired(table, same)["margin"].item() == pytest.approx(0, abs=1e-9)


def test_a_pair_is_an_interaction_of_prompt_and_continuation(tiny_slm, corpus):
    two = [choice(tiny_slm, corpus[0], (3, 4), (5,), "a", "one"), choice(tiny_slm, corpus[1], (5,), (3, 4), "b", "other")]
    table = forced_choice(tiny_slm, two)
    (row,) = paired(table, two).itertuples()
    log_p = [table.loc[number, column] for number in (0, 1) for column in ("log_p_right", "log_p_wrong")]
    assert row.margin == pytest.approx(log_p[0] - log_p[1] + log_p[2] - log_p[3])
    assert (row.name, row.cluster, row.correct) == ("a", "one | other", float(row.margin > 0))
    assert paired(table, two).attrs == table.attrs


def test_choices_that_are_no_pair_are_refused(tiny_slm, corpus):
    two = [choice(tiny_slm, corpus[0], (3, 4), (5,), "a"), choice(tiny_slm, corpus[1], (6,), (3, 4), "b")]
    with pytest.raises(ReadoutError, match="Choices 'a' and 'b' are no pair"):
        paired(forced_choice(tiny_slm, two), two)
    with pytest.raises(ReadoutError, match="Pairs are two choices each; got 1 choices"):
        paired(forced_choice(tiny_slm, two[:1]), two[:1])
    with pytest.raises(ReadoutError, match="what forced_choice made of these choices"):
        paired(forced_choice(tiny_slm, two), two[::-1])


def test_accuracy_counts_clusters_and_knows_chance():
    table = pd.DataFrame(
        {"correct": [1.0, 1.0, 1.0, 0.5] * 8, "margin": 1.0, "cluster": np.repeat(np.arange(8), 4), "voice": ["a", "b"] * 16}
    )
    (row,) = accuracy(table).itertuples()
    assert (row.items, row.clusters, row.accuracy) == (32, 8, 0.875)
    assert row.p == 2 / 2**8
    assert row.low == row.high == 0.875  # every cluster is alike
    by_voice = accuracy(table, by="voice").set_index("voice")
    assert by_voice["accuracy"].to_dict() == {"a": 1.0, "b": 0.75}
    assert by_voice["items"].tolist() == [16, 16]


def test_a_guesser_is_not_told_from_chance():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"correct": rng.integers(0, 2, 200).astype(float), "margin": 0.0, "cluster": np.repeat(np.arange(50), 4)})
    (row,) = accuracy(table).itertuples()
    assert row.low < 0.5 < row.high and row.p > 0.05


@pytest.mark.usefixtures("as_users_run_it")
def test_ids_outside_what_is_normalised_over_are_refused(tiny_slm, corpus):
    word = torch.tensor([tiny_slm.word_ids("rome")[0]])
    text = Choice(corpus[0], word, units(tiny_slm, 3), "capital", "one")
    sentence = "Choice 'capital' continues with '▁rome' (id 8), which is not among the speech ids that are normalised over."
    with pytest.raises(ReadoutError, match=re.escape(sentence)):
        forced_choice(tiny_slm, [text])
    assert len(forced_choice(tiny_slm, [text], among="joint")) == 1
    read = Choice(corpus[0], word, torch.tensor([tiny_slm.word_ids("sea")[0]]), "capital", "one")
    joint, alone = (forced_choice(tiny_slm, [read], among=among)["log_p_right"].item() for among in ("joint", "text"))
    assert alone > joint
    with pytest.raises(VocabularyError, match="Ids must lie in 0..32; got 99"):
        forced_choice(tiny_slm, [Choice(corpus[0], torch.tensor([99]), units(tiny_slm, 3), "x", "one")])


@pytest.mark.usefixtures("as_users_run_it")
def test_choices_without_a_choice_are_refused(tiny_slm, corpus):
    with pytest.raises(ReadoutError, match="Choice 'item' has the same continuation twice"):
        choice(tiny_slm, corpus[0], (3, 4), (3, 4))
    with pytest.raises(ReadoutError, match="Choice 'item' needs at least one id of each continuation."):
        Choice(corpus[0], units(tiny_slm, 3), torch.tensor([], dtype=torch.long), "item", "one")
    with pytest.raises(ReadoutError, match="got 0 choices, 'sum', 'speech'"):
        forced_choice(tiny_slm, [])
    with pytest.raises(ReadoutError, match="'median'"):
        forced_choice(tiny_slm, [choice(tiny_slm, corpus[0], (3,), (4,))], "median")
    table = forced_choice(tiny_slm, [choice(tiny_slm, corpus[0], (3,), (4,))])
    with pytest.raises(StatisticsError, match="All 1 items are of one cluster"):
        accuracy(table)
    with pytest.raises(ReadoutError, match="No column 'voice' to group by; there are name, cluster"):
        accuracy(table, by="voice")


def test_a_continuation_longer_than_the_model_reads_is_refused(speech_only_slm):
    slm = speech_only_slm
    prompt = slm.speech_prompt(torch.arange(10), torch.arange(11.0))
    with pytest.raises(ReadoutError, match=re.escape("Choice 'long' has 70 positions with its continuation; the model reads")):
        forced_choice(slm, [Choice(prompt, units(slm, *[1] * (70 - len(prompt))), units(slm, 2), "long", "one")])
