"""Bases of text: directions of words by every spelling and basis, and what each reads, against the model's own modules."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from slm_interp import hooked
from slm_interp.causal.bases import Basis, EmbeddingBasis, LensBasis, ProbeBasis, RandomBasis, basis_of, margin, rank
from slm_interp.convert import load
from slm_interp.errors import PatchingError, ReadoutError, VocabularyError
from slm_interp.lenses import Aim, JacobianLens, LogitLens, TunedLens, WordProbe, directions_of
from slm_interp.lenses.probe.probe import dataset_of
from slm_interp.lenses.probe.states import fingerprint_of
from slm_interp.model import SpeechTextModel
from slm_interp.patching.interventions import Subspace, SwapCoordinates
from tests.replicas import N_UNITS, VARIANTS, write_slamkit

PIECES = "<unk> ▁ ▁un do tie ▁paris ▁Paris paris Paris ▁rome ▁Rome rome r ome ▁oslo oslo ▁O slo ▁old undo untie".split()


@pytest.fixture(scope="module")
def slm(tmp_path_factory: pytest.TempPathFactory) -> SpeechTextModel:
    """Its tokenizer knows some words in four forms, some in two, and some in several pieces."""
    model = models.WordPiece({piece: number for number, piece in enumerate(PIECES)}, unk_token="<unk>", continuing_subword_prefix="")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    whole = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    folder = write_slamkit(tmp_path_factory.mktemp("pieces"), VARIANTS["llama"], vocab_size=len(PIECES) + N_UNITS + 2)
    return load(folder, text_tokenizer=whole, n_units=N_UNITS, quantiser="pieces")


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> SpeechTextModel:
    from tests.replicas import text_tokenizer

    tokenizer = text_tokenizer()
    folder = write_slamkit(tmp_path_factory.mktemp("tied"), VARIANTS["qwen2-mha-tied"], vocab_size=len(tokenizer) + N_UNITS + 2)
    return load(folder, text_tokenizer=tokenizer, n_units=N_UNITS, quantiser="tied")


def id_of(piece: str) -> int:
    return PIECES.index(piece)


def tuned(slm: SpeechTextModel) -> TunedLens:
    n_layers, d_model = slm.model.cfg.n_layers, slm.model.cfg.d_model
    weight, bias = 0.3 * torch.randn(n_layers, d_model, d_model), torch.randn(n_layers, d_model)
    return TunedLens(slm, tuple(range(n_layers)), weight, bias, Aim("speech", "joint"), {})


def jacobian(slm: SpeechTextModel) -> JacobianLens:
    n_layers, d_model = slm.model.cfg.n_layers, slm.model.cfg.d_model
    said = {"sources": "all", "targets": "all", "n_prompts": 1, "fingerprint": fingerprint_of(slm)}
    return JacobianLens(slm, tuple(range(n_layers)), torch.randn(n_layers, d_model, d_model), said)


def probe(slm: SpeechTextModel, classes: Sequence[str] = ("oslo", "paris", "rome")) -> WordProbe:
    rng, width = np.random.default_rng(0), slm.model.cfg.d_model
    numbers = {
        "weight": rng.normal(size=(1, len(classes), width)).astype(np.float32),
        "bias": rng.normal(size=(1, len(classes))).astype(np.float32),
        "penalty": np.ones(1),
        "count": np.ones(len(classes), dtype=int),
    }
    attrs = {"target": "current", "position": "last", "control": "none", "seed": 0, "fingerprint": fingerprint_of(slm)}
    return WordProbe(dataset_of([1], classes, numbers, attrs))


def every_basis(slm: SpeechTextModel) -> list[Basis]:
    lenses = [LensBasis(lens, slm) for lens in (LogitLens(slm), tuned(slm), jacobian(slm))]
    return [*lenses, LensBasis(LogitLens(slm), slm, "variants"), EmbeddingBasis(slm), ProbeBasis(probe(slm)), RandomBasis(24)]


# -- which directions --------------------------------------------------------------------------------


def test_by_default_a_word_is_its_first_piece(slm: SpeechTextModel) -> None:
    basis = LensBasis(LogitLens(slm), slm)
    first, second = basis.pairs(1, "undo", "paris")
    torch.testing.assert_close(torch.cat([first, second]), directions_of(slm, [id_of("▁un"), id_of("▁paris")]), rtol=0, atol=0)
    torch.testing.assert_close(basis.directions(1, ["undo", "paris"]), torch.cat([first, second]), rtol=0, atol=0)


def test_variants_are_matched_form_by_form_and_forms_that_one_word_lacks_are_left_out(slm: SpeechTextModel) -> None:
    """Of `oslo` there are ` oslo`, `oslo`, ` O|slo`, and `Oslo` cannot be spelled; of `paris` all four."""
    first, second = LensBasis(LogitLens(slm), slm, "variants").pairs(1, "oslo", "paris")
    torch.testing.assert_close(first, directions_of(slm, [id_of("▁oslo"), id_of("oslo"), id_of("▁O")]))
    torch.testing.assert_close(second, directions_of(slm, [id_of("▁paris"), id_of("paris"), id_of("▁Paris")]))


def test_all_pieces_are_matched_one_by_one_as_far_as_the_shorter_word_goes(slm: SpeechTextModel) -> None:
    first, second = LensBasis(LogitLens(slm), slm, "all_pieces").pairs(1, "undo", "paris")
    torch.testing.assert_close(torch.cat([first, second]), directions_of(slm, [id_of("▁un"), id_of("▁paris")]))


def test_words_with_one_first_piece_are_refused_by_name_and_told_apart_by_the_pieces_that_differ(slm: SpeechTextModel) -> None:
    for basis in (LensBasis(LogitLens(slm), slm), LensBasis(LogitLens(slm), slm, "variants"), EmbeddingBasis(slm)):
        with pytest.raises(PatchingError, match=r"'undo' and 'untie' both begin with '.*un': they have one direction.*all_pieces"):
            basis.pairs(1, "undo", "untie")
    assert slm.text_segment("undo").ids[0] != slm.text_segment("untie").ids[0]  # as they open a text; inside one they begin alike
    first, second = LensBasis(LogitLens(slm), slm, "all_pieces").pairs(1, "undo", "untie")
    torch.testing.assert_close(torch.cat([first, second]), directions_of(slm, [id_of("do"), id_of("tie")]))
    with pytest.raises(PatchingError, match="both begin"):
        LensBasis(LogitLens(slm), slm, "all_pieces").pairs(1, "undo", "undo")


def test_an_id_that_two_spellings_share_comes_once(slm: SpeechTextModel) -> None:
    rows = LensBasis(LogitLens(slm), slm, "variants").directions(1, ["paris", "Paris"])
    torch.testing.assert_close(rows, directions_of(slm, [id_of(one) for one in ("▁paris", "paris", "▁Paris", "Paris")]))


def test_pairs_of_every_basis_are_independent_and_go_into_a_swap_that_undoes_itself(slm: SpeechTextModel) -> None:
    resid = torch.randn(2, 5, 24)
    for basis in every_basis(slm):
        first, second = basis.pairs(1, "paris", "rome")
        assert first.shape == second.shape
        assert Subspace(torch.cat([first, second])).rank == 2 * len(first)
        swap = SwapCoordinates(first, second)
        torch.testing.assert_close(swap(swap(resid, None), None), resid, rtol=1e-4, atol=1e-4)


def test_a_pair_that_depends_on_those_before_it_is_left_out_for_both_words(slm: SpeechTextModel) -> None:
    lens = LogitLens(slm)

    class Leaning:
        """` Paris` is read where ` paris` and `rome` are."""

        name, settings = "leaning", dict[str, str]()
        scores, directions = lens.scores, lens.directions

        def directions_of_ids(self, layer: int, ids: Sequence[int]) -> torch.Tensor:
            rows = lens.directions_of_ids(layer, ids)
            there = list(ids)
            if id_of("▁Paris") in there:
                rows[there.index(id_of("▁Paris"))] = rows[there.index(id_of("▁paris"))] - 2 * rows[there.index(id_of("paris"))]
            return rows

    first, second = LensBasis(Leaning(), slm, "variants").pairs(1, "paris", "rome")
    torch.testing.assert_close(first, directions_of(slm, [id_of("▁paris"), id_of("paris")]))
    torch.testing.assert_close(second, directions_of(slm, [id_of("▁rome"), id_of("rome")]))
    assert len(LensBasis(lens, slm, "variants").pairs(1, "paris", "rome")[0]) == 3


def test_directions_of_one_line_are_refused(slm: SpeechTextModel) -> None:
    lens = LogitLens(slm)

    class OneLine:
        name, settings = "one line", dict[str, str]()
        scores = lens.scores

        def directions(self, layer: int, words: Sequence[str]) -> torch.Tensor:
            return torch.arange(1, len(words) + 1)[:, None] * torch.ones(24)

    with pytest.raises(PatchingError, match="'paris' and 'rome' lie on one line"):
        LensBasis(OneLine(), slm).pairs(1, "paris", "rome")
    with pytest.raises(PatchingError, match="variants needs a lens with directions_of_ids"):
        LensBasis(OneLine(), slm, "variants")


def test_what_is_not_there_is_refused(slm: SpeechTextModel, as_users_run_it: None) -> None:
    with pytest.raises(PatchingError, match="A word is spelled by first_piece, variants, all_pieces; got 'last'"):
        EmbeddingBasis(slm, "last")  # type: ignore[arg-type]
    with pytest.raises(PatchingError, match="use ProbeBasis"):
        LensBasis(probe(slm), slm)
    with pytest.raises(PatchingError, match="Layers count blocks run, 0 .* to 3; got 4"):
        EmbeddingBasis(slm).directions(4, ["paris"])
    with pytest.raises(ReadoutError, match="trained at layers"):
        ProbeBasis(probe(slm)).directions(2, ["paris"])
    with pytest.raises(VocabularyError):
        LensBasis(LogitLens(slm), slm).pairs(1, "paris", "zagreb")
    with pytest.raises(PatchingError, match="are one word"):
        RandomBasis(24).pairs(1, "paris", "paris")


# -- each basis --------------------------------------------------------------------------------------


def test_the_rows_of_the_embedding_are_what_the_model_is_given(slm: SpeechTextModel) -> None:
    """Read off a run of the word itself."""
    ids = torch.tensor([[id_of("▁paris"), id_of("▁rome")]])
    _, cache = slm.model.run_with_cache(ids, prepend_bos=False)
    torch.testing.assert_close(EmbeddingBasis(slm).directions(2, ["paris", "rome"]), cache["hook_embed"][0], rtol=0, atol=0)


def test_of_a_tied_model_the_rows_of_the_embedding_are_the_lens_s_before_the_norm(tied: SpeechTextModel) -> None:
    norm = hooked.norm_formula(tied.model)
    rows = EmbeddingBasis(tied).directions(1, ["paris", "rome"])
    torch.testing.assert_close(norm.pull_back(rows), LensBasis(LogitLens(tied), tied).directions(1, ["paris", "rome"]))
    torch.testing.assert_close(rows, LensBasis(LogitLens(tied, final_norm=False), tied).directions(1, ["paris", "rome"]))


def test_a_random_direction_is_its_word_s_whatever_else_is_asked_for() -> None:
    basis = RandomBasis(24, seed=3, each=2)
    both = basis.directions(1, ["paris", "rome"])
    torch.testing.assert_close(basis.directions(1, ["rome"]), both[2:], rtol=0, atol=0)
    torch.testing.assert_close(both.norm(dim=-1), torch.ones(4))
    assert not torch.equal(basis.directions(2, ["rome"]), both[2:])
    assert not torch.equal(RandomBasis(24, seed=4, each=2).directions(1, ["rome"]), both[2:])


def test_lenses_and_probes_are_bases_of_their_directions(slm: SpeechTextModel, as_users_run_it: None) -> None:
    random = RandomBasis(24)
    assert basis_of(random, slm) is random
    assert isinstance(basis_of(LogitLens(slm), slm), LensBasis)
    assert isinstance(basis_of(probe(slm), slm), ProbeBasis)
    with pytest.raises(PatchingError, match="got str"):
        basis_of("logit", slm)  # type: ignore[arg-type]


def test_a_basis_says_what_it_is(slm: SpeechTextModel) -> None:
    for basis in every_basis(slm):
        assert isinstance(basis, Basis)
        assert basis.settings["basis"] == basis.name
    assert LensBasis(LogitLens(slm), slm, "variants").name == "logit, variants"
    assert LensBasis(tuned(slm), slm).settings["tuned"]


# -- what it reads -----------------------------------------------------------------------------------


def test_a_lens_scores_a_word_by_its_logit_and_by_the_greatest_of_its_spellings(slm: SpeechTextModel) -> None:
    resid = torch.randn(5, 24)
    with torch.no_grad():
        logits = slm.model.unembed(slm.model.ln_final(resid[None]))[0]
    one = LensBasis(LogitLens(slm), slm).score(resid, 3, ["rome", "paris"])
    torch.testing.assert_close(one, logits[:, [id_of("▁rome"), id_of("▁paris")]])
    most = LensBasis(LogitLens(slm), slm, "variants").score(resid, 3, ["paris"])
    torch.testing.assert_close(most[:, 0], logits[:, [id_of(piece) for piece in ("▁paris", "paris", "▁Paris", "Paris")]].amax(-1))


def test_moving_a_residual_along_a_word_s_direction_raises_its_score_in_every_basis(slm: SpeechTextModel) -> None:
    for basis in every_basis(slm):
        resid = torch.randn(6, 24)
        direction = basis.directions(1, ["paris"])[0]
        before, after = (basis.score(one, 1, ["paris"]) for one in (resid, resid + 20 * direction / direction.norm()))
        assert (after > before).all(), basis.name


def test_a_probe_scores_its_classes(slm: SpeechTextModel) -> None:
    made, resid = probe(slm), torch.randn(4, 24)
    torch.testing.assert_close(ProbeBasis(made).score(resid, 1, ["rome", "oslo"]), made.scores(resid, 1)[:, [2, 0]])
    with pytest.raises(ReadoutError, match="never trained on"):
        ProbeBasis(made).score(resid, 1, ["undo"])


def test_a_margin_takes_the_greatest_score_of_each_word_over_the_positions_of_each_run() -> None:
    class Table(RandomBasis):
        """Reads the numbers of a residual as the scores of A, B and C."""

        def score(self, resid: torch.Tensor, layer: int, words: Sequence[str]) -> torch.Tensor:
            return resid[:, ["A", "B", "C"].index(words[0]) :][:, : len(words)]

    clean = torch.tensor([[1.0, 0.0, 5.0], [4.0, 2.0, 0.0]])
    corrupted = torch.tensor([[0.0, 7.0, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 6.0]])
    assert margin(Table(3), 0, ("A", "B"), clean, corrupted) == (4 - 2) - (0.5 - 7)
    assert rank(Table(3), 0, "A", ["A", "B", "C"], clean) == 1
    assert rank(Table(3), 0, "A", ["A", "B", "C"], torch.ones(1, 3)) == 1  # two equals, half each
    with pytest.raises(PatchingError, match="'D' must be one"):
        rank(Table(3), 0, "D", ["A", "B", "C"], clean)
