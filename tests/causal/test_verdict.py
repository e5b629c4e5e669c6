"""The rule of docs/verdict.md: every line is reached by data made for it, in its order, from the same draws of clusters."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from slm_interp.causal import Measured, Rule, combined, decide
from slm_interp.causal.evidence import evidence
from slm_interp.causal.rule import LINES, WORDS
from slm_interp.errors import StatisticsError
from slm_interp.statistics import bootstrap, ratio_of_means

N = 80
RULE = Rule(draws=400)


def measured(
    text: float = 0.0,
    complement: float | None = None,
    third: float = 0.5,
    elsewhere: float = 0.0,
    ceiling: float = 2.0,
    margin: float = 3.0,
    noise: float = 0.05,
    random: float = 0.01,
    seed: int = 0,
) -> Measured:
    """Cases whose text carries a share of the ceiling; a third word and another place have a share of that."""
    rng = np.random.default_rng(seed)

    def around(mean: np.ndarray) -> np.ndarray:
        return mean + noise * rng.normal(size=N)

    whole = around(ceiling * (1 + 0.3 * rng.normal(size=N)))
    parts = {
        "text": text,
        "complement": 1 - text if complement is None else complement,
        "third": third * text,
        "elsewhere": elsewhere * text,
    }
    made = {name: around(share * whole) for name, share in parts.items()}
    labels = {"prompt": rng.permutation(np.arange(N) % 40), "word": rng.permutation(np.arange(N) % 40)}
    return Measured(whole=whole, margin=margin + rng.normal(size=N), random=random * rng.normal(size=1000), **made, **labels)


# -- the lines ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "line", "word", "said"),
    [
        ({"ceiling": 0.05}, 1, "uninformative", "There is no effect to explain"),
        ({"ceiling": 0.0, "noise": 0.0}, 1, "uninformative", "There is no effect to explain"),
        ({"ceiling": -2.0}, 1, "uninformative", "There is no effect to explain"),
        ({"margin": 0.0}, 2, "uninformative", "The lens does not read the word here"),
        ({"margin": -2.0, "text": 1.0}, 2, "uninformative", "The lens does not read the word here"),
        ({"text": 1.0}, 3, "text-mediated", "Text carries the effect and nothing beside it does"),
        ({"text": 0.0}, 4, "epiphenomenal", "Text is a shadow"),
        ({"text": 0.05}, 4, "epiphenomenal", "Text is a shadow"),  # specific too: a twentieth is declared to be nothing
        ({"text": 0.5}, 5, "partly", "Text carries 0.4975"),
        ({"text": 1.0, "complement": 0.5}, 5, "partly", "its complement 0.4977"),  # either would do: text is not all there is
        ({"text": 0.85}, 5, "partly", "Text carries 0.8"),
        ({"text": 0.5, "third": 1.0}, 6, "uninformative", "more than a third word by"),
        ({"text": 1.0, "third": 1.0}, 6, "uninformative", "more than a third word by"),
        ({"text": 0.5, "elsewhere": 1.0}, 6, "uninformative", "more than elsewhere by"),
        ({"text": 0.5, "random": 3.0}, 6, "uninformative", "of random directions only"),
        ({"text": -0.5, "third": 1.0}, 6, "uninformative", "above 0% of random directions only"),
        ({"text": 0.0, "complement": 0.3}, 7, "uninformative", "Neither part carries the effect alone"),
        ({"text": 0.0, "complement": 0.8}, 7, "uninformative", "The intervals are too wide"),
    ],
)
def test_every_line_of_the_rule_is_reached_by_data_made_for_it(given, line, word, said):
    verdict = decide(measured(**given), RULE)
    assert (verdict.line, verdict.word) == (line, word), str(verdict)
    assert said in verdict.reason


def test_lines_come_in_the_order_of_the_page_and_the_last_always_holds():
    assert [line.number for line in LINES] == list(range(1, 8))
    assert {line.word for line in LINES} == set(WORDS)
    assert LINES[-1].holds(evidence(measured(), RULE), RULE)


def test_an_earlier_line_decides_where_a_later_one_holds_too():
    no_effect, unread = measured(ceiling=0.0, margin=0.0), measured(text=1.0, margin=0.0)
    assert decide(no_effect, RULE).line == 1 and decide(unread, RULE).line == 2
    assert LINES[2].holds(evidence(unread, RULE), RULE)


def test_text_is_all_there_is_only_if_its_complement_is_shown_to_be_nothing():
    """One interval of t above .9 is not enough: noise of the complement leaves it open."""
    sure = measured(text=1.0)
    open_question = replace(sure, complement=sure.complement + np.random.default_rng(1).normal(size=N) * 2)
    assert decide(sure, RULE).word == "text-mediated"
    assert decide(open_question, RULE).word == "partly"


def test_no_effect_seen_is_not_no_effect():
    noisy = replace(measured(), text=np.random.default_rng(2).normal(size=N) * 3)
    verdict = decide(noisy, RULE)
    assert verdict.word == "uninformative"
    assert verdict.shares["text"].low < 0 < verdict.shares["text"].high


def test_what_counts_as_nothing_is_a_declaration_that_can_be_made_otherwise():
    made = measured(text=0.15)
    assert decide(made, RULE).word == "partly"
    assert decide(made, replace(RULE, nothing=0.2)).word == "epiphenomenal"


# -- the numbers -------------------------------------------------------------------------------------


def test_shares_are_ratios_of_means_with_the_interval_of_the_clustered_bootstrap():
    made = measured(text=0.4, noise=0.5)
    found = decide(made, RULE).shares["text"]
    ways = {"prompt": made.prompt, "word": made.word}
    own = bootstrap(np.stack([made.text, made.whole], 1), ways, ratio_of_means, draws=400)
    np.testing.assert_allclose([found.estimate, found.low, found.high], [own.estimate[0], own.low[0], own.high[0]])
    assert found.clusters == {"prompt": 40, "word": 40}


def test_every_share_comes_from_the_same_draws():
    """Parts that sum to the whole in every case sum to 1 in every draw, so that one interval is the other turned round."""
    made = measured(text=0.4, noise=0.5)
    found = evidence(replace(made, complement=made.whole - made.text), RULE)
    text, rest = found.shares["text"], found.shares["complement"]
    np.testing.assert_allclose([rest.low, rest.high], [1 - text.high, 1 - text.low])
    np.testing.assert_allclose(found.within["complement"].low, 1 - found.within["text"].high)
    assert text.low < found.within["text"].low < found.within["text"].high < text.high


def test_saying_every_case_twice_makes_nothing_surer():
    made = measured(text=0.4, noise=0.5)
    arrays = {
        name: np.tile(getattr(made, name), 2) for name in ("whole", "text", "complement", "margin", "third", "elsewhere", "prompt", "word")
    }
    once, twice = evidence(made, RULE), evidence(Measured(random=made.random, **arrays), RULE)
    for name, share in once.shares.items():
        np.testing.assert_allclose([twice.shares[name].low, twice.shares[name].high], [share.low, share.high], rtol=1e-9)


def test_what_this_word_adds_is_text_less_the_third_word_case_by_case():
    made = measured(text=0.4, noise=0.0)
    found = decide(made, RULE)
    assert found.shares["specific"].estimate == pytest.approx(0.2)
    assert found.evidence.means["here"].estimate == pytest.approx(0.4 * made.whole.mean())
    assert found.percentile == 100.0


def test_the_order_of_cases_and_the_names_of_clusters_do_not_matter_to_the_estimates():
    made = measured(text=0.4)
    order = np.random.default_rng(3).permutation(N)
    names = ("whole", "text", "complement", "margin", "third", "elsewhere", "prompt", "word")
    other = replace(made, **{name: getattr(made, name)[order] for name in names})
    assert decide(other, RULE).word == decide(made, RULE).word
    np.testing.assert_allclose(decide(other, RULE).shares["text"].estimate, decide(made, RULE).shares["text"].estimate)


def test_a_ceiling_that_is_not_there_is_not_divided_by():
    verdict = decide(measured(ceiling=0.0, noise=0.0), RULE)
    assert verdict.shares == {} and verdict.evidence.within == {}
    assert np.isfinite([verdict.ceiling.low, verdict.ceiling.high]).all()


def test_draws_that_miss_every_case_with_an_effect_say_nothing_about_shares():
    whole = np.repeat([0.0, 4.0], 4)
    labels = {"prompt": np.arange(8), "word": np.zeros(8, int)}
    made = Measured(whole=whole, text=whole / 2, complement=whole / 2, margin=np.ones(8), random=np.zeros(1000), **labels)
    found = evidence(made, Rule(least=0.01, draws=4000))
    assert (found.shares["text"].low, found.shares["text"].high) == (0.5, 0.5)


# -- controls that are missing, and what only warns --------------------------------------------------


@pytest.mark.parametrize(("control", "said"), [("third", "a third word"), ("random", "random draws")])
def test_without_a_third_word_or_random_draws_nothing_is_called_specific(control, said):
    verdict = decide(replace(measured(text=1.0), **{control: None}), RULE)
    assert verdict.word == "uninformative" and not verdict.specific
    assert said in verdict.missing and f"it was not compared with {said}" in verdict.reason
    assert decide(replace(measured(), **{control: None}), RULE).word == "epiphenomenal"


def test_without_another_place_the_two_others_decide_and_it_is_named():
    verdict = decide(replace(measured(text=1.0), elsewhere=None), RULE)
    assert verdict.word == "text-mediated" and "elsewhere" in verdict.missing


def test_another_voice_and_distances_warn_and_decide_nothing():
    made = measured(text=1.0)
    near, far = np.ones(N), np.full(N, 2.5)
    voice = np.where(np.arange(N) < 40, 0.5 * made.whole, np.nan)  # the rest have no other voice
    quiet = decide(replace(made, extras={"other_voice": 0.01 * made.whole, "distance": near, "distance_whole": near}), RULE)
    loud = decide(replace(made, extras={"other_voice": voice, "distance": far, "distance_whole": near}), RULE)
    assert quiet.warnings == () and quiet.missing == ()
    assert len(loud.warnings) == 2 and loud.word == quiet.word
    assert "moves 0.5 of the ceiling, beyond 0.2" in loud.warnings[0] and "2.5 times as far" in loud.warnings[1]


def test_few_clusters_and_a_single_prompt_are_said():
    made = measured(text=1.0)
    few = replace(made, prompt=np.zeros(N, int), word=np.arange(N) % 39)
    warnings = decide(few, RULE).warnings
    assert warnings == (
        "39 words are fewer than 40 clusters: the intervals are too narrow.",
        "All cases are of one prompt: how another prompt would differ is not in the intervals.",
    )


# -- several lenses ----------------------------------------------------------------------------------


def test_one_lens_among_several_has_to_be_surer():
    """Text less third word is above 0 at 95% and not at the level that six lenses are asked at."""
    made, rule = measured(text=0.5), Rule(draws=1000)
    noise = np.random.default_rng(4).normal(size=N)
    low = bootstrap(noise, {"prompt": made.prompt, "word": made.word}, draws=1000).low
    lens = replace(made, third=made.text - (noise - low + 0.001))  # so that its interval begins just above 0
    assert decide(lens, rule).word == combined({"probe": lens}, rule).word == "partly"
    others = {f"shadow {number}": measured(seed=number) for number in range(5)}
    together = combined({"probe": lens, **others}, rule)
    assert together.strict["probe"].word != "partly" and together.word == "uninformative"
    assert "probe says partly at level 0.95" in together.reason


def test_a_sure_lens_among_several_decides_and_the_strongest_word_is_given():
    together = combined({"logit": measured(), "tuned": measured(text=0.5), "probe": measured(text=1.0)}, RULE)
    assert together.word == "text-mediated" and together.reason == "probe at level 0.9833."
    assert combined({"logit": measured(), "tuned": measured(text=0.5)}, RULE).word == "partly"


def test_text_is_a_shadow_if_every_lens_that_reads_the_word_says_so():
    blind = measured(margin=0.0)
    assert combined({"logit": measured(), "tuned": measured(seed=1), "blind": blind}, RULE).word == "epiphenomenal"
    assert combined({"logit": measured(), "lost": measured(complement=0.3)}, RULE).word == "uninformative"
    assert combined({"blind": blind}, RULE).reason == "No lens reads the word."
    flat = measured(ceiling=0.0)  # reads, and there is nothing to explain
    assert combined({"logit": measured(), "flat": flat}, RULE).word == "uninformative"


# -- shown -------------------------------------------------------------------------------------------


def test_a_verdict_prints_its_line_its_numbers_and_what_it_was_decided_with():
    said = str(decide(replace(measured(text=0.5), elsewhere=None), RULE)).split("\n")
    assert re.match(r"partly \(line 5 of the rule\): Text carries 0\.\d+ \[0\.\d+, 0\.\d+\] of the ceiling, above 0", said[0])
    assert said[1] == (
        "80 cases, 40 prompts, 40 words; nothing is below 0.1 of the ceiling, the least ceiling 0.1 nats, intervals of 0.95 from 400 draws."
    )
    assert said[2].startswith("Not measured: elsewhere, the same words in another voice")


def test_a_verdict_is_plain_data_and_a_table():
    verdict = decide(measured(text=0.5), RULE)
    plain = json.loads(json.dumps(verdict.to_dict()))
    assert plain["verdict"] == "partly" and plain["line"] == 5 and plain["rule"]["nothing"] == 0.1
    assert plain["shares"]["text"]["low"] == float(verdict.shares["text"].low)
    html = verdict._repr_html_()
    assert html.count("<tr>") == 1 + 2 + len(verdict.shares) and "<b>partly</b> (line 5" in html
    assert "Verdict(partly, line 5, text 0." in repr(verdict)
    together = combined({"a < b": measured()}, RULE)
    assert "a &lt; b" in together._repr_html_() and "a < b: epiphenomenal" in str(together)
    assert json.loads(json.dumps(together.to_dict()))["lenses"]["a < b"]["verdict"] == "epiphenomenal"
    assert all(warning.endswith("(a < b)") for warning in together.warnings)


# -- refusals ----------------------------------------------------------------------------------------


def _with(**given: object) -> Measured:
    return replace(measured(), **given)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: _with(text=np.full(N, np.nan)), "80 of 80 numbers of 'text' are not finite. Leave such cases out of all arrays by name"),
        (lambda: _with(random=np.array([np.inf])), "1 of 1 numbers of 'random' are not finite."),
        (lambda: _with(third=np.zeros(3)), "there are 80 whole patches, and {'third': 3}."),
        (lambda: _with(extras={"other_voice": np.zeros(2)}), "there are 80 whole patches, and {'other_voice': 2}."),
        (lambda: _with(extras={"voice": np.zeros(N)}), "Extras are other_voice, distance, distance_whole; got voice."),
        (lambda: _with(random=np.zeros(0)), "There are no random draws; give None if they were not made."),
        (lambda: _with(prompt=["one"] * N, word=["one"] * N), "All 80 cases are of one prompt and one word"),
        (lambda: decide(_with(random=np.zeros(39))), "The 97.5th percentile needs 40 random draws or more; got 39."),
        (lambda: Rule(nothing=0.4), "above 0 and below 1/3, or it is also nearly all; got 0.4."),
        (lambda: Rule(least=0.0), "The least ceiling is above 0 nats, since shares of it are taken; got 0.0."),
        (lambda: Rule(level=0.5), "above .5 and below 1; got 0.5."),
        (lambda: Rule(draws=39), "Intervals of 95.00% need 40 draws or more; got 39."),
        (lambda: combined({}), "Together is asked of one lens or more; got none."),
    ],
)
@pytest.mark.usefixtures("as_users_run_it")
def test_what_cannot_be_decided_is_refused_in_a_sentence(call, sentence):
    with pytest.raises(StatisticsError, match=re.escape(sentence)):
        call()
