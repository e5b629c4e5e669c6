"""Word probes: what was planted is found where it was planted, and nothing is found where nothing is."""

from __future__ import annotations

import dataclasses
import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from slm_interp.errors import ReadoutError
from slm_interp.lenses import States, WordProbe, selectivity, split, train_probe
from slm_interp.lenses.probe.control import drawn_label, labels_of
from slm_interp.lenses.probe.multinomial import fit, whitening
from slm_interp.lenses.probe.probe import rank_of
from tests.lenses.planted_states import NEXT, NOISE, UNIT, WORD, WORDS, planted

ONE = (1e-3,)


@lru_cache(maxsize=1)
def sides() -> tuple[States, States]:
    return split(planted())


@lru_cache(maxsize=1)
def probe() -> WordProbe:
    return train_probe(sides()[0], penalties=ONE)


def relabelled(states: States, **columns: object) -> States:
    """The same residuals under other names."""
    named = {name: ("word", np.full(len(states), value, dtype=object)) for name, value in columns.items()}
    return States(states.dataset.assign_coords(named))


def accuracies(found: object) -> np.ndarray:
    return found.accuracy.sel(k=1).values  # type: ignore[attr-defined]


# -- what is found -------------------------------------------------------------------------------------


def test_a_planted_code_is_read_perfectly_at_its_layer_and_at_no_other() -> None:
    found = probe().accuracy(sides()[1])
    right = accuracies(found)
    assert right[WORD] == 1
    assert (right[[NOISE, UNIT]] < 0.25).all()  # 12 words
    assert float(found.n_words) == len(sides()[1])
    assert (found.accuracy.sel(k=5) >= found.accuracy.sel(k=1)).all()


@pytest.mark.parametrize("target", ["next", "previous"])
def test_the_next_word_is_read_where_it_is_planted_and_the_last_word_has_none(target: str) -> None:
    train, test = sides()
    found = train_probe(train, target, penalties=ONE).accuracy(test)
    right = accuracies(found)
    assert (right[NEXT] == 1) == (target == "next")
    assert (right[[NOISE, WORD, UNIT]] < 0.25).all()
    assert int(found.n_words) == len(test) * 3 // 4


def test_a_layer_says_the_same_in_whatever_basis_it_is_written() -> None:
    train, test = (one.where(np.arange(len(one)) < 200) for one in sides())
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(24, 24)))[0].astype(np.float32)
    turned = [
        States(one.dataset.assign(resid=one.dataset.resid.copy(data=7 * one.dataset.resid.values @ rotation))) for one in (train, test)
    ]
    before, after = (train_probe(one, layers=[NOISE, WORD], penalties=(1e-1,)) for one in (train, turned[0]))
    for layer in (NOISE, WORD):
        scores = [
            one.scores(torch.from_numpy(side.dataset.resid.sel(layer=layer).values), layer)
            for one, side in ((before, test), (after, turned[1]))
        ]
        torch.testing.assert_close(scores[0], scores[1], atol=5e-3, rtol=5e-3)
        torch.testing.assert_close(
            before.directions(layer, WORDS) @ torch.from_numpy(rotation) / 7, after.directions(layer, WORDS), atol=5e-3, rtol=5e-3
        )


@pytest.mark.parametrize("penalty", [1e-3, 1.0])
def test_the_fit_is_where_the_stated_loss_is_flat(penalty: float) -> None:
    rng = torch.Generator().manual_seed(0)
    points, labels = torch.randn(80, 5, generator=rng) * torch.tensor([1.0, 3, 0.2, 1, 5]) + 2, torch.arange(80) % 4
    weight, bias = (one.double().requires_grad_(True) for one in fit(whitening(points), labels, 4, penalty))
    spread = points.double().var(0, unbiased=False).mean()
    loss = cross_entropy(points.double() @ weight.T + bias, labels) + penalty * spread / 2 * weight.square().sum()
    gradients = torch.autograd.grad(loss, (weight, bias))
    assert max(float(one.abs().max()) for one in gradients) < 1e-3


def test_of_the_penalties_the_one_that_holds_on_other_sentences_is_taken() -> None:
    chosen = train_probe(sides()[0], penalties=(1e2, 1e-1, 1e-4)).dataset.penalty
    assert float(chosen.sel(layer=NOISE)) == 1e2
    assert float(chosen.sel(layer=WORD)) == 1e-4


def test_training_is_a_function_of_states_and_seed() -> None:
    train = sides()[0].where(np.arange(len(sides()[0])) < 120)
    assert train_probe(train, layers=[NOISE]).hash == train_probe(train, layers=[NOISE]).hash
    assert train_probe(train, layers=[NOISE]).hash != train_probe(train, layers=[NOISE], seed=1).hash


def test_moving_along_a_direction_raises_the_score_of_its_word_as_much_as_it_says() -> None:
    resid = torch.from_numpy(sides()[1].dataset.resid.sel(layer=WORD).values[:5])
    along = probe().directions(WORD, ["cat", "apple"])
    before, after = (probe().scores(resid + step, WORD) for step in (0, 0.1 * along[0]))
    gain = (after - before)[:, WORDS.index("cat")] - (after - before)[:, WORDS.index("apple")]
    torch.testing.assert_close(gain, (0.1 * (along[0] - along[1]) @ along[0]).expand(5), atol=1e-3, rtol=1e-3)
    assert (gain > 0).all()


def test_equal_scores_share_their_ranks_as_in_every_reading() -> None:
    scores = torch.tensor([[3.0, 1.0, 1.0, 1.0, 0.0]])
    assert rank_of(scores, torch.tensor([[0, 1, 4]])).tolist() == [[0, 2, 4]]


# -- what guessing gives -------------------------------------------------------------------------------


def test_majority_and_chance_are_those_of_the_training_words() -> None:
    few = planted(3, words=("yes", "no", "so"))
    train = States(few.dataset.assign_coords(text=("word", np.array(["yes"] * 6 + ["no"] * 3 + ["so"] * 3, dtype=object))))
    test = planted(1, seed=1, words=("yes", "no", "so"))
    test = States(test.dataset.assign_coords(text=("word", np.array(["so", "yes", "yes", "what"], dtype=object))))
    found = train_probe(train, penalties=ONE).accuracy(test, k=(1, 2))
    assert found.majority.values.tolist() == pytest.approx([2 / 3, 2 / 3])  # "no" before "so": equally common, first by name
    assert float(found.chance) == pytest.approx((1 / 4 + 1 / 2 + 1 / 2) / 3)


def test_words_that_training_never_had_are_counted_apart_and_not_as_misses() -> None:
    test = sides()[1]
    strange = test.dataset.text.values.copy()
    strange[: len(test) // 4] = "zebra"
    found = probe().accuracy(States(test.dataset.assign_coords(text=("word", strange))))
    assert float(found.without_class) == pytest.approx((len(test) // 4) / len(test))
    assert accuracies(found)[WORD] == 1
    with pytest.raises(ReadoutError, match=f"None of the {len(test)} words to be read has a class"):
        probe().accuracy(relabelled(test, text="zebra"))


def test_selectivity_tells_the_word_from_the_unit_it_is_read_at() -> None:
    found = selectivity(*sides(), penalties=ONE)
    assert found.attrs["control"] == "unit"
    assert float(found.control_accuracy.sel(layer=UNIT)) == 1 > float(found.control_accuracy.sel(layer=WORD))
    assert float(found.selectivity.sel(layer=WORD)) > 0.4
    assert float(found.selectivity.sel(layer=UNIT)) < -0.4
    np.testing.assert_allclose(found.selectivity, found.accuracy - found.control_accuracy)


def test_a_layer_that_knows_the_current_word_alone_has_no_selectivity_for_the_next() -> None:
    found = selectivity(*sides(), target="next", penalties=ONE)
    assert found.attrs["control"] == "word"
    assert float(found.control_accuracy.sel(layer=WORD)) == 1
    assert float(found.selectivity.sel(layer=WORD)) < -0.5
    assert float(found.selectivity.sel(layer=NEXT)) > 0.5


def test_random_labels_follow_the_words_and_depend_on_seed_and_name_alone() -> None:
    weights = {"cat": 6, "boat": 3, "apple": 1}
    drawn = [drawn_label(f"type {number}", 0, weights) for number in range(4000)]
    for word, weight in weights.items():
        assert drawn.count(word) / 4000 == pytest.approx(weight / 10, abs=0.03)
    assert drawn == [drawn_label(f"type {number}", 0, dict(reversed(weights.items()))) for number in range(4000)]
    assert drawn != [drawn_label(f"type {number}", 1, weights) for number in range(4000)]


def test_on_types_it_never_saw_a_control_is_at_chance() -> None:
    kinds = tuple(f"kind {number}" for number in range(300))
    train, test = planted(250, words=kinds[:40]), planted(250, seed=1, words=kinds[40:])
    codes = np.random.default_rng(5).normal(size=(300, 24)).astype(np.float32)

    def written(states: States) -> States:
        resid = np.stack([codes[kinds.index(word)] for word in states.dataset.text.values])[None]
        two = np.array([("yes", "no")[number % 2] for number in range(len(states))], dtype=object)
        named = {"next_text": ("word", two), "text": states.dataset.text}
        return States(states.dataset.isel(layer=[0]).assign(resid=(("layer", "word", "d_model"), resid)).assign_coords(named))

    control = train_probe(written(train), "next", control="word", penalties=ONE)
    seen = split(written(planted(250, seed=2, words=kinds[:40])), by="key")[1]
    assert accuracies(control.accuracy(seen))[0] > 0.9
    assert accuracies(control.accuracy(written(test)))[0] == pytest.approx(0.5, abs=0.1)


def test_a_random_label_for_every_word_is_no_control_of_the_word_itself() -> None:
    with pytest.raises(ReadoutError, match="the current word under other names"):
        train_probe(sides()[0], "current", control="word")
    assert set(labels_of(sides()[0], "next", "unit", 0, {"a": 1})) == {"a", ""}


# -- what is refused -----------------------------------------------------------------------------------


def test_an_utterance_on_both_sides_is_refused_whatever_it_is_called() -> None:
    test = sides()[1]
    leaked = test.dataset.key.values.copy()
    leaked[3] = sides()[0].dataset.key.values[0]
    both = relabelled(test, sentence="another", utterance="another")
    with pytest.raises(ReadoutError, match=r"1 utterance\(s\) of these states were used to train this probe.*by='key'"):
        probe().accuracy(States(both.dataset.assign_coords(key=("word", leaked))), apart=())


def test_a_sentence_said_again_is_refused_and_a_voice_when_asked_for() -> None:
    train, test = sides()
    with pytest.raises(ReadoutError, match=r"1 sentence\(s\) of these states"):
        probe().accuracy(relabelled(test, sentence=train.dataset.sentence.values[0]))
    with pytest.raises(ReadoutError, match=r"3 voice\(s\) of these states.*split\(states, by='voice'\)"):
        probe().accuracy(test, apart=["voice"])
    assert accuracies(probe().accuracy(relabelled(test, voice="nobody heard before"), apart=["voice"]))[WORD] == 1


def test_voices_that_were_not_given_are_not_shared() -> None:
    silent = [relabelled(one, voice="") for one in sides()]
    assert accuracies(train_probe(silent[0], layers=[WORD], penalties=ONE).accuracy(silent[1], apart=["voice"])) == 1


@pytest.mark.parametrize("by", ["key", "sentence", "voice"])
def test_sides_share_nothing_of_what_they_are_split_by(by: str) -> None:
    states = planted(60)
    train, test = split(states, by=by, share=0.3)
    assert not set(train.dataset[by].values) & set(test.dataset[by].values)
    assert len(train) + len(test) == len(states)
    assert len(set(test.dataset[by].values)) == round(0.3 * len(set(states.dataset[by].values)))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"target": "last"}, "reads the current, next, previous word; got 'last'"),
        ({"layers": [1, 9]}, r"no layers \[9\]; they have \[0, 1, 2, 3\]"),
        ({"penalties": (0.0,)}, r"positive numbers; got \[0.0\]"),
        ({"penalties": ()}, r"positive numbers; got \[\]"),
        ({"control": "voice", "target": "next"}, "for every word or unit, or is none; got 'voice'"),
    ],
)
def test_what_cannot_be_trained_is_refused_with_a_sentence(options: dict, sentence: str, as_users_run_it: None) -> None:
    with pytest.raises(ReadoutError, match=sentence):
        train_probe(sides()[0], **options)


def test_too_little_to_train_on_is_refused() -> None:
    train = sides()[0]
    with pytest.raises(ReadoutError, match=r"needs two of them; got \['cat'\]"):
        train_probe(relabelled(train, text="cat"))
    apart = train.where(np.arange(len(train)) < 8).dataset.assign_coords(text=("word", np.array(list("abcdefgh"), dtype=object)))
    with pytest.raises(ReadoutError, match="Too few words said in several sentences"):
        train_probe(States(apart), penalties=(1.0, 2.0))
    flat = States(train.dataset.assign(resid=train.dataset.resid.copy(data=np.ones_like(train.dataset.resid.values))))
    with pytest.raises(ReadoutError, match="are all the same"):
        train_probe(flat)
    with pytest.raises(ReadoutError, match="two of 'voice' at least"):
        split(relabelled(train, voice="one"), by="voice")


def test_states_of_another_model_or_position_or_with_fewer_layers_are_refused() -> None:
    test = sides()[1]
    for attrs, sentence in (
        ({"fingerprint": "other"}, r"trained on the model planted \(d_model 24\); this is other"),
        ({"position": -1}, "trained at position last; these states are at -1"),
    ):
        with pytest.raises(ReadoutError, match=sentence):
            probe().accuracy(States(test.dataset.assign_attrs(attrs)))
    with pytest.raises(ReadoutError, match=r"lack the layers \[0, 3\]"):
        probe().accuracy(States(test.dataset.sel(layer=[1, 2])))
    with pytest.raises(ReadoutError, match=r"at layers \[0, 1, 2, 3\]; got 7"):
        probe().directions(7, ["cat"])
    with pytest.raises(ReadoutError, match=r"never trained on \['zebra'\]; it knows 12 words"):
        probe().directions(WORD, ["cat", "zebra"])


# -- files ---------------------------------------------------------------------------------------------


def small(tiny_slm: object) -> WordProbe:
    """A probe that says it was trained on the tiny model."""
    width = tiny_slm.model.cfg.d_model  # type: ignore[attr-defined]
    states = sides()[0].where(np.arange(len(sides()[0])) < 80).dataset
    narrow = states.isel(layer=[0, 1], d_model=np.arange(width) % 24)
    return train_probe(States(narrow.assign_attrs(fingerprint=tiny_slm.provenance["fingerprint"])), penalties=ONE)  # type: ignore[attr-defined]


def test_what_was_saved_comes_back(tiny_slm: object, tmp_path: Path) -> None:
    one = small(tiny_slm)
    one.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["probe.json", "probe.safetensors"]
    back = WordProbe.load(tmp_path, tiny_slm)
    assert back.hash == one.hash
    assert back.dataset.identical(one.dataset)
    assert back.settings == one.settings


def test_a_saved_probe_still_refuses_what_it_was_trained_on(tiny_slm: object, tmp_path: Path) -> None:
    one = small(tiny_slm)
    one.save(tmp_path)
    said = one.dataset.attrs["fingerprint"]
    narrow = sides()[0].dataset.isel(layer=[0, 1], d_model=np.arange(one.dataset.sizes["d_model"]) % 24).assign_attrs(fingerprint=said)
    with pytest.raises(ReadoutError, match="were used to train this probe"):
        WordProbe.load(tmp_path, tiny_slm).accuracy(States(narrow))


def test_another_model_and_damaged_files_are_refused(tiny_slm: object, tmp_path: Path) -> None:
    with pytest.raises(ReadoutError, match=r"No probe.json"):
        WordProbe.load(tmp_path, tiny_slm)
    small(tiny_slm).save(tmp_path)
    other = dataclasses.replace(tiny_slm, provenance={**tiny_slm.provenance, "fingerprint": "another"})
    with pytest.raises(ReadoutError, match=r"this is another .* Train one for it"):
        WordProbe.load(tmp_path, other)
    described = json.loads((tmp_path / "probe.json").read_text())
    described["attrs"]["seed"] = 5
    (tmp_path / "probe.json").write_text(json.dumps(described))
    with pytest.raises(ReadoutError, match="do not belong together"):
        WordProbe.load(tmp_path, tiny_slm)


def test_a_probe_says_what_it_is() -> None:
    assert repr(probe()) == "WordProbe(current word at position last, 12 words, layers [0, 1, 2, 3])"
    assert probe().hash in probe()._repr_html_()
