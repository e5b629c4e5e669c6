"""Every public family through the same door: released ids, prompts as the family's own code lays them out, parity, refusals.

The other side of parity is Hugging Face's model of the base architecture, filled with the replica's weights in memory; of
ChatGLM, which Hugging Face does not have, it is `GlmForCausalLM` before its tensors were laid together.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import sentencepiece
import tiktoken
import torch
from torch import Tensor

from slm_interp import LogitLens
from slm_interp.convert import inspect, load, verify
from slm_interp.convert.architectures import chatglm, glm
from slm_interp.convert.families import families
from slm_interp.convert.loading import hooked_model
from slm_interp.convert.rules import Split
from slm_interp.convert.source import open_source
from slm_interp.convert.text_tokenizer import GLM_PATTERN, PROBES, text_tokenizer_of
from slm_interp.errors import ConversionError, ParityError, VocabularyError
from slm_interp.lenses.page import Clip, lens_page
from slm_interp.model import SpeechTextModel
from slm_interp.prompt import alternated
from slm_interp.streams import flattened, merged_by_time, unflattened
from slm_interp.strings import pieces, spelled
from slm_interp.utterance import Span, Utterance, Word
from slm_interp.vocabulary import JointVocabulary
from tests.convert.reference import hooked_transformer, hugging_face, random_tokens, worst
from tests.family_replicas import REPLICAS, copied, sentencepiece_model, tiktoken_model, write_replica
from tests.replicas import random_weights

BOUND = 5e-5
MERGED = torch.tensor([3, 7, 3, 9])
TEXT = " and they went"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a replica, written once."""
    root, written = tmp_path_factory.mktemp("families"), {}

    def folder(name: str) -> Path:
        if name not in written:
            written[name] = write_replica(root / name, name)
        return written[name]

    return folder


@pytest.fixture(scope="module")
def loaded(folders: Callable[[str], Path]) -> Callable[[str], SpeechTextModel]:
    """A replica, loaded once."""
    models: dict[str, SpeechTextModel] = {}

    def slm(name: str) -> SpeechTextModel:
        if name not in models:
            models[name] = load(folders(name))
        return models[name]

    return slm


def spelling(slm: SpeechTextModel, ids: Tensor) -> str:
    """Every id as its token, `|` between them."""
    return "|".join(slm.vocabulary.spelled(one) or slm.tokenizer.convert_ids_to_tokens(one) for one in ids.tolist())


# -- every family -----------------------------------------------------------------------------------------


def test_every_family_has_a_replica():
    assert set(families()) - {"slamkit"} == {one.family for one in REPLICAS.values()}


@pytest.mark.parametrize("name", REPLICAS)
def test_a_checkpoint_is_recognised_and_every_unit_stands_on_its_released_id(name, loaded):
    slm, replica = loaded(name), REPLICAS[name]
    assert slm.provenance["family"] == replica.family and slm.vocabulary.size == replica.rows
    assert slm.vocabulary.codebooks == tuple(range(len(replica.first_unit)))
    for book, (first, last) in enumerate(zip(replica.first_unit, replica.last_unit, strict=True)):
        units = torch.tensor([0, slm.vocabulary.n_units(book) - 1])
        ids = slm.vocabulary.unit_to_id(units, book)
        assert ids.tolist() == [first, last] and slm.vocabulary.id_to_unit(ids, book).equal(units)
        assert slm.tokenizer is None or slm.tokenizer.convert_tokens_to_ids(slm.vocabulary.spelled(last)) == last
    assert {token: slm.vocabulary.marker(token) for token in replica.markers} == replica.markers


@pytest.mark.parametrize("name", REPLICAS)
def test_logits_and_every_resid_post_equal_hugging_face(name, loaded):
    replica = REPLICAS[name]
    tokens = random_tokens(24, replica.rows)
    assert (
        worst(hooked_transformer(loaded(name).model, tokens), hugging_face(replica.config, random_weights(replica.config), tokens)) < BOUND
    )


@pytest.mark.parametrize("name", ["spiritlm", "glm4voice", "glm4voice-hf", "twist-opt", "llama_mimi"])
def test_verify_says_the_same(name, folders):
    report = verify(folders(name), length=16)
    assert report.check().passed and {row.sequence for row in report.rows} >= {"speech", "mixed"}


@pytest.mark.parametrize("name", REPLICAS)
def test_inspection_says_family_ranges_and_prompt_forms(name, folders):
    found = inspect(folders(name))
    assert found.facts["family"] == REPLICAS[name].family and found.vocabulary is not None
    assert found.facts["prompt forms"] and found.vocabulary.size == REPLICAS[name].rows
    assert REPLICAS[name].family in str(found) and "<table" in found._repr_html_()


def spoken(slm: SpeechTextModel) -> Utterance:
    """Two words of speech in whatever way the family writes it."""
    words = [Word("the", Span(0, 2), 0.0, 0.1), Word("sea", Span(2, 4), 0.1, 0.2)]
    edges = torch.arange(5) * 0.05
    if len(slm.vocabulary.codebooks) == 1:
        return slm.speech_prompt(MERGED, edges, words)
    frames = MERGED[:, None] + torch.arange(len(slm.vocabulary.codebooks))
    return slm.prompt([slm.frames_segment(frames, edges, words)])


@pytest.mark.parametrize("name", REPLICAS)
def test_the_lens_and_its_page_take_it_and_the_last_row_is_the_model(name, loaded):
    slm = loaded(name)
    utterance = spoken(slm)
    reading = LogitLens(slm).read(utterance)
    best = slm.logits(utterance).masked_fill(slm.vocabulary.mask("dead"), -torch.inf).argmax(-1)
    assert reading.dataset["top_id"].isel(layer=-1).sel(k=1).values.tolist() == best.tolist()
    (section,) = lens_page([Clip(name, utterance, reading.dataset)]).sections
    assert len(section.blocks) == (4 if "text" in slm.vocabulary.kinds else 3) and name in section.title


def test_rows_no_tokenizer_emits_are_dead(loaded):
    dead = {name: int(loaded(name).vocabulary.mask("dead").sum()) for name in ("spiritlm", "spiritlm_expressive", "glm4voice", "usdm")}
    assert dead == {"spiritlm": 9, "spiritlm_expressive": 101, "glm4voice": 223 + 1_008, "usdm": 0}


def test_images_and_music_are_neither_text_nor_speech(loaded):
    vocabulary = loaded("anygpt").vocabulary
    assert int(vocabulary.mask("other").sum()) == 2 * 8_192
    assert vocabulary.kind_of(32_004) == "other" and vocabulary.kind_of(40_196) == "marker" and vocabulary.kind_of(31_999) == "text"
    assert int(loaded("outetts").vocabulary.mask("other").sum()) == 101


# -- faults that must be caught ---------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "architecture"), [("glm4voice", chatglm), ("glm4voice-hf", glm)])
@pytest.mark.parametrize("fault", ["gate and up swapped", "half of the turned half", "halves in place of adjacent pairs"])
def test_a_conversion_with_a_fault_fails_parity(name, architecture, fault, folders, monkeypatch):
    fields, rules = architecture.fields, architecture.rules
    if fault == "gate and up swapped":
        swap = lambda rule: replace(rule, targets=rule.targets[::-1]) if isinstance(rule, Split) else rule  # noqa: E731
        monkeypatch.setattr(architecture, "rules", lambda config: tuple(map(swap, rules(config))))
    else:
        change = {"rotary_dim": 2} if fault.startswith("half") and "turned" in fault else {"rotary_adjacent_pairs": False}
        monkeypatch.setattr(architecture, "fields", lambda config: {**fields(config), **change})
    with pytest.raises(ParityError, match="FAILED"):
        verify(folders(name), length=12).check()


def test_keys_and_values_swapped_fail_parity(folders, monkeypatch):
    rules = chatglm.rules

    def swapped(config):
        made = list(rules(config))
        of = {rule.target: place for place, rule in enumerate(made) if getattr(rule, "target", "").endswith(("_W_K", "_W_V"))}
        first, second = of.values()
        made[first], made[second] = replace(made[first], target=made[second].target), replace(made[second], target=made[first].target)
        return tuple(made)

    monkeypatch.setattr(chatglm, "rules", swapped)
    with pytest.raises(ParityError, match="FAILED"):
        verify(folders("glm4voice"), length=12).check()


def test_an_epsilon_of_another_glm_is_seen(folders, tmp_path):
    """4e-8 beside 1.6e-7: no difference at activations of size one, so the weights here are as small as embeddings."""
    raw = REPLICAS["glm4voice"].config
    weights = random_weights(raw, scale=0.001)
    folder = write_replica(tmp_path / "small", "glm4voice", weights=weights)
    tokens, config = random_tokens(16, raw["vocab_size"]), json.loads((folder / "config.json").read_text())
    theirs = hugging_face(raw, weights, tokens)
    assert worst(hooked_transformer(load(folder).model, tokens), theirs) < BOUND
    (folder / "config.json").write_text(json.dumps({**config, "layernorm_epsilon": 1.5625e-07}))
    assert worst(hooked_transformer(load(folder).model, tokens), theirs) > 1e-3


@pytest.mark.parametrize("name", ["spiritlm", "glm4voice", "llama_mimi"])
def test_a_shifted_unit_range_is_refused(name, loaded):
    slm = loaded(name)
    book = next(one for one in slm.vocabulary.ranges if one.codebook == 0)
    shifted = tuple(replace(one, first=one.first + 1) if one is book else one for one in slm.vocabulary.ranges)
    with pytest.raises(VocabularyError, match=r"is declared as .*; the tokenizer calls it"):
        JointVocabulary(shifted, slm.vocabulary.size).check_tokenizer(slm.tokenizer)


# -- tokenizers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["and they went out together", " and  they", "sea\nshore", "naïve 東京", "[Hu]"])
def test_text_after_a_marker_is_what_sentencepiece_makes_of_it_there(text, loaded):
    """Sentencepiece puts a blank before the first piece of a string; after `[Text]` it must not."""
    slm = loaded("spiritlm")
    reference = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model(32_000))
    # A piece of one letter that the model has not is spelled in bytes, as a marker inside a sentence is passed over.
    inside = (
        reference.encode("x" + text)[len(reference.encode("x")) :] if not text.startswith(" ") else reference.encode(text.removeprefix(" "))
    )
    assert slm.text_segment(text).ids.tolist() == inside


def test_spirit_lm_prompts_have_no_blank_before_their_first_marker(loaded):
    slm = loaded("spiritlm")
    prompt = slm.speech_prompt(torch.tensor([99, 49]), torch.tensor([0.0, 0.04, 0.08]))
    assert prompt.tokens.tolist() == [1, 32_001, 32_002 + 99, 32_002 + 49]
    assert slm.ids_of("[Speech][Hu99][Hu49]").tolist() == prompt.tokens.tolist()[1:]


@pytest.mark.parametrize("text", [*PROBES, "It's 12345 o'clock,\r\n\r\n  isn't it?  ", "東京 ☃ \U0001f600", "mourning"])
def test_glm_s_tokenizer_is_what_tiktoken_makes_of_the_same_file(text, loaded):
    lines = (line.split() for line in tiktoken_model(151_329).splitlines())
    reference = tiktoken.Encoding(
        "glm", pat_str=GLM_PATTERN, mergeable_ranks={base64.b64decode(token): int(rank) for token, rank in lines}, special_tokens={}
    )
    tokenizer = loaded("glm4voice").tokenizer
    assert tokenizer(text)["input_ids"] == reference.encode_ordinary(text)
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_a_tokenizer_that_transformers_and_sentencepiece_read_differently_is_refused(folders, tmp_path):
    folder = copied(folders("spiritlm"), tmp_path / "folder")
    tokenizer = load(folder).tokenizer
    tokenizer.backend_tokenizer.pre_tokenizer.prepend_scheme = "never"
    tokenizer.save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    with pytest.raises(ConversionError, match=r"transformers spells 'and they went out together' as .*, the sentencepiece library"):
        load(folder)


# -- prompts ----------------------------------------------------------------------------------------------


def test_spirit_lm_interleaves_as_its_tests_do(loaded):
    """`[Hu338][Text] and they went out together[Speech][Hu431]`, opened with its marker."""
    slm = loaded("spiritlm")
    first = slm.speech_segment(torch.tensor([338]), torch.tensor([0.0, 0.2]))
    then = slm.speech_segment(torch.tensor([431]), torch.tensor([1.0, 1.2]))
    prompt = slm.prompt([first, slm.text_segment(" and they went out together"), then])
    assert (
        spelling(slm, prompt.tokens)
        == "<s>|[Speech]|[Hu338]|[Text]|" + spelling(slm, slm.text_segment(" and they went out together").ids) + "|[Speech]|[Hu431]"
    )
    string = "[Speech][Hu338][Text] and they went out together[Speech][Hu431]"
    assert slm.ids_of(string).equal(prompt.tokens[1:])
    assert [word.text for word in prompt.words] == ["and", "they", "went", "out", "together"]
    assert [slm.tokenizer.decode(prompt.tokens[word.span.start : word.span.stop]).strip() for word in prompt.words] == [
        "and",
        "they",
        "went",
        "out",
        "together",
    ]
    assert slm.speech_prompt(MERGED, torch.arange(5) * 0.1, then="text").tokens.tolist()[-1] == slm.vocabulary.marker("[Text]")
    assert slm.speech_prompt(MERGED, torch.arange(5) * 0.1, then="speech").tokens.tolist()[-1] == 32_002 + 9, "it marks changes alone"


SOUND = [99, 49, 38, 149, 149, 71, 423, 427, 492, 288, 315, 153, 153, 389, 497, 412, 247, 354, 7, 96]
PITCH, STYLE = [39, 39, 39, 48, 56, 40, 42, 39, 51, 40], [71]


def test_expressive_spirit_lm_merges_its_streams_as_its_own_tokenizer_does(loaded):
    """The golden string of `tests/test_tokenizer.py`; of sound and pitch that begin together, pitch comes first."""
    slm = loaded("spiritlm_expressive")
    ids, edges = merged_by_time(slm.vocabulary, {0: SOUND, 1: PITCH, 2: STYLE})
    assert spelled(slm.vocabulary, ids) == (
        "[St71][Pi39][Hu99][Hu49][Hu38][Hu149][Hu71][Pi48][Hu423][Hu427][Pi56][Hu492][Hu288][Pi40][Hu315][Hu153][Pi42][Hu389]"
        "[Pi39][Hu497][Hu412][Pi51][Hu247][Hu354][Pi40][Hu7][Hu96]"
    )
    assert edges[0] == 0 and edges[-1] == 1.0 and bool((edges.diff() >= 0).all())  # a second of style outlasts the rest
    assert slm.ids_of(spelled(slm.vocabulary, ids)).equal(ids)


def test_sound_at_24_99_hz_falls_behind_pitch_after_a_hundred_seconds_and_not_before(loaded):
    vocabulary = loaded("spiritlm_expressive").vocabulary
    at_25 = tuple(replace(one, rate_hz=25.0) if one.rate_hz == 24.99 else one for one in vocabulary.ranges)
    streams = {0: [place % 2 for place in range(2_600)], 1: [place % 2 for place in range(1_300)]}
    (ours, edges), (theirs, _) = merged_by_time(vocabulary, streams), merged_by_time(JointVocabulary(at_25, vocabulary.size), streams)
    assert edges[int((ours != theirs).nonzero()[0])].item() == 100.0


def test_words_of_merged_streams_are_the_positions_that_begin_in_their_time(loaded):
    slm = loaded("spiritlm_expressive")
    word = Word("sea", Span(0, 1), 0.23, 0.41)
    segment = slm.streams_segment({0: SOUND, 1: PITCH, 2: STYLE}, [word])
    span = segment.words[0].span
    assert spelled(slm.vocabulary, segment.ids[span.start : span.stop]) == "[Pi48][Hu423][Hu427][Pi56][Hu492][Hu288][Pi40][Hu315]"


def test_spirit_lm_s_docstring_example_is_merged_by_its_code_not_by_its_docstring(loaded):
    vocabulary = loaded("spiritlm_expressive").vocabulary
    sound, pitch = [78, 42, 81, 159, 316, 259], [13, 13, 13, 13, 13, 3]
    ids, _ = merged_by_time(vocabulary, {0: sound, 1: pitch, 2: [81]})
    assert spelled(vocabulary, ids) == "[St81][Pi13][Hu78][Hu42][Hu81][Hu159][Hu316][Hu259][Pi3]"


def test_glm_lays_out_an_instruction_as_its_demo_does(loaded):
    slm = loaded("glm4voice")
    prompt = slm.speech_prompt(torch.tensor([5, 5, 16_383]), torch.arange(4) * 0.08)
    string = (
        "[gMASK]<sop><|system|>\nUser will provide you with a speech instruction. Do it step by step. First, think about the instruction and respond "
        "in a interleaved manner, with 13 text token followed by 26 audio tokens. <|user|>\n<|begin_of_audio|><|audio_5|><|audio_5|><|audio_16383|>"
        "<|end_of_audio|><|assistant|>streaming_transcription\n"
    )
    assert prompt.tokens.tolist() == slm.tokenizer(string)["input_ids"]
    assert prompt.tokens[:3].tolist() == [151_331, 151_333, 151_335]


def test_glm_answers_in_turns_of_thirteen_and_twenty_six(loaded):
    slm = loaded("glm4voice")
    text = slm.text_segment(" and they went out together and they went out together and they")
    speech = slm.speech_segment(torch.arange(60), torch.arange(61) * 0.08)
    turns = alternated(text, speech, slm.prompts.alternation)
    assert [(turn.modality, len(turn.ids)) for turn in turns][:2] == [("text", 13), ("speech", 26)]
    assert torch.cat([turn.ids for turn in turns if turn.modality == "text"]).equal(text.ids)
    prompt = slm.prompt(turns, form="stream")
    kinds = ["t" if kind == "text" else "s" for kind in map(slm.vocabulary.kind_of, prompt.tokens[2:].tolist())]
    assert "".join(kinds).startswith("t" * 13 + "s" * 26) and len(kinds) == len(text.ids) + 60


def test_usdm_separates_segments_and_pairs_them(loaded):
    slm = loaded("usdm")
    speech, text = slm.speech_segment(MERGED, torch.arange(5) * 0.02), slm.text_segment("and they")
    assert slm.prompt([speech, text]).tokens.tolist() == [1, *(32_002 + MERGED).tolist(), 32_000, *text.ids.tolist()]
    assert slm.prompt([speech, text], form="corresponding").tokens.tolist() == [1, *(32_002 + MERGED).tolist(), 32_001, *text.ids.tolist()]
    assert text.ids.tolist() == slm.tokenizer("and they")["input_ids"][1:], "a segment is tokenized by itself, its BOS cut off"
    assert slm.speech_prompt(MERGED, torch.arange(5) * 0.02, form="corresponding", then="text").tokens[-1] == 32_001


def test_twist_adds_its_offset_and_nothing_else(loaded):
    assert loaded("twist-opt").speech_prompt(MERGED, torch.arange(5) * 0.04).tokens.tolist() == (4 + MERGED).tolist()
    assert loaded("twist-opt").tokenizer is None and loaded("twist-opt").vocabulary.kinds == ("speech", "dead")


def test_llama_mimi_writes_frame_after_frame(loaded):
    """`<audio><1049_0><1700_1><1626_2><546_3><127_0>...` of its unit tests."""
    slm = loaded("llama_mimi")
    frames = torch.tensor([[1049, 1700, 1626, 546], [127, 243, 783, 546]])
    segment = slm.frames_segment(frames, torch.tensor([0.0, 0.08, 0.16]), [Word("sea", Span(1, 2), 0.08, 0.16)])
    prompt = slm.prompt([segment], form="closed")
    assert spelled(slm.vocabulary, prompt.tokens[1:]) == "<audio><1049_0><1700_1><1626_2><546_3><127_0><243_1><783_2><546_3></audio>"
    assert prompt.tokens[:2].tolist() == [128_000, 136_448] and prompt.words[0].span == Span(6, 10)
    assert prompt.edges[2:11].tolist() == pytest.approx([0.02 * step for step in range(9)])
    assert unflattened(slm.vocabulary, prompt.tokens[2:-1]).equal(frames)


def test_soda_frames_text_and_audio(loaded):
    slm = loaded("soda")
    frames = torch.arange(16).reshape(2, 8)
    prompt = slm.prompt([slm.text_segment("the sea"), slm.frames_segment(frames, torch.tensor([0.0, 0.08, 0.16]))])
    codes = "".join(chr(0xE000 + 2048 * book + int(code)) for frame in frames for book, code in enumerate(frame))
    string = f"<|begin_of_text|><|text_start|>the sea<|text_end|><|audio_start|>{codes}<|audio_end|><|end_of_text|>"
    assert prompt.tokens.tolist() == slm.tokenizer(string, add_special_tokens=False)["input_ids"]
    assert spelled(slm.vocabulary, slm.ids_of(codes)) == codes


def test_orpheus_asks_for_speech_after_text(loaded):
    slm = loaded("orpheus")
    text = slm.text_segment("tara: the sea")
    prompt = slm.prompt([text], then="speech")
    assert prompt.tokens.tolist() == [128_259, 128_000, *text.ids.tolist(), 128_009, 128_260, 128_261, 128_257]
    frame = slm.frames_segment(torch.tensor([[1, 2, 3, 4, 5, 6, 7]]), torch.tensor([0.0, 0.08]))
    assert (frame.ids - 128_266 - 4096 * torch.arange(7)).tolist() == [1, 2, 3, 4, 5, 6, 7]


def test_spark_tts_reads_the_prompt_of_a_cloned_voice(loaded):
    """Ids as `expand_tokenizer.py` prints them."""
    slm = loaded("sparktts")
    text = slm.text_segment("the sea").ids.tolist()
    voice = "<|start_global_token|><|bicodec_global_10|><|end_global_token|><|start_semantic_token|><|bicodec_semantic_311|>"
    ids = slm.ids_of(f"<|task_tts|><|start_content|>the sea<|end_content|>{voice}").tolist()
    assert ids == [165_137, 165_146, *text, 165_152, 165_150, 151_675, 165_156, 165_151, 156_072]


def test_strings_may_hold_tokens_of_other_modalities_and_texts_may_not(loaded):
    """Spark-TTS's controls of a voice."""
    slm = loaded("sparktts")
    pitch = slm.tokenizer.convert_tokens_to_ids("<|pitch_value_7|>")
    assert slm.vocabulary.kind_of(pitch) == "other"
    label = slm.tokenizer.convert_tokens_to_ids("<|start_style_label|>")
    assert slm.ids_of("<|task_controllable_tts|><|start_style_label|><|pitch_value_7|>").tolist()[1:] == [label, pitch]
    with pytest.raises(VocabularyError, match=r"'<\|pitch_value_7\|>', which is other and not text"):
        slm.text_segment("the <|pitch_value_7|> sea")


@pytest.mark.parametrize(
    ("name", "string"),
    [
        ("speechgpt", "<s>|[Human]|:|▁|<sosp>|<3>|<7>|<3>|<9>|<eosp>|<eoh>|.|▁|[SpeechGPT]|:|▁"),
        ("llasa", "<|begin_of_text|>|<|SPEECH_GENERATION_START|>|<|s_3|>|<|s_7|>|<|s_3|>|<|s_9|>"),
        ("ichigo", "<|begin_of_text|>|<|sound_start|>|<|sound_0003|>|<|sound_0007|>|<|sound_0003|>|<|sound_0009|>|<|sound_end|>"),
        ("anygpt", "<s>|<sosp>|<\U0001f5e3\ufe0f3>|<\U0001f5e3\ufe0f7>|<\U0001f5e3\ufe0f3>|<\U0001f5e3\ufe0f9>"),
    ],
)
def test_speech_is_framed_as_the_family_frames_it(name, string, loaded):
    slm = loaded(name)
    prompt = slm.speech_prompt(MERGED, torch.arange(5) * 0.02, form="asked" if name == "speechgpt" else None)
    assert spelling(slm, prompt.tokens) == string


# -- strings and streams ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "string", "sentence"),
    [
        ("spiritlm", "[Hu501]", r"'\[Hu501\]' is spelled like a unit and is none; there are \[Hu0\] to \[Hu500\]\."),
        ("spiritlm", "[Hu007]", r"'\[Hu007\]' is spelled like a unit and is none"),
        ("spiritlm", "[Hu99999999999999999999]", "is spelled like a unit and is none"),
        ("llama_mimi", "<2048_3>", r"'<2048_3>' is spelled like a unit and is none"),
        ("ichigo", "<|sound_3|>", "is spelled like a unit and is none"),
    ],
)
def test_a_token_that_is_spelled_like_a_unit_and_is_none_is_refused(name, string, sentence, loaded):
    with pytest.raises(VocabularyError, match=sentence):
        loaded(name).ids_of(string)


def test_what_is_no_token_is_text(loaded):
    assert pieces(loaded("spiritlm").vocabulary, "[Hu3]abc[Hu][Speech") == [32_005, "abc[Hu][Speech"]


def test_text_has_no_declared_spelling(loaded):
    with pytest.raises(VocabularyError, match="Id 300 has no declared spelling; text is spelled by the tokenizer"):
        spelled(loaded("spiritlm").vocabulary, torch.tensor([32_002, 300]))


def test_frames_and_streams_that_do_not_fit_are_refused(loaded):
    mimi, spirit = loaded("llama_mimi").vocabulary, loaded("spiritlm_expressive").vocabulary
    with pytest.raises(VocabularyError, match="This vocabulary has 4 codebooks; the frames have 3 codes"):
        flattened(mimi, torch.zeros(2, 3, dtype=torch.long), torch.arange(3.0))
    with pytest.raises(VocabularyError, match="2 frames need 3 edges; got 2"):
        flattened(mimi, torch.zeros(2, 4, dtype=torch.long), torch.arange(2.0))
    with pytest.raises(VocabularyError, match="no whole number of them"):
        unflattened(mimi, torch.tensor([128_256, 128_257, 128_258]))
    with pytest.raises(VocabularyError, match="is no unit of codebook 1"):
        unflattened(mimi, torch.tensor([128_256, 128_256, 128_258, 128_259]))
    with pytest.raises(VocabularyError, match="Codebook 3 has no stated rate"):
        merged_by_time(spirit, {3: [1]})
    with pytest.raises(VocabularyError, match="Codebook 1 has units 0..63; got 64"):
        merged_by_time(spirit, {1: [64]})


# -- refusals ---------------------------------------------------------------------------------------------


def test_a_family_forced_on_a_checkpoint_of_another_is_refused(folders):
    with pytest.raises(ConversionError, match=r"Family 'usdm' needs the token '<\|unit0\|>', which this tokenizer of 32503 tokens lacks"):
        load(folders("spiritlm"), family="usdm")
    with pytest.raises(ConversionError, match=r"Family 'twist' reads the first unit's id from config key 'offset'; it is None"):
        load(folders("spiritlm"), family="twist")
    with pytest.raises(ConversionError, match=r"A UnitLM config needs a 'base_config'"):
        load(folders("spiritlm"), family="slamkit")
    with pytest.raises(ConversionError, match=r"No family 'spirit'; there are .*spiritlm.*A family of your own is declared"):
        load(folders("spiritlm"), family="spirit")


def test_the_tokenizer_of_another_model_is_refused(folders, loaded):
    with pytest.raises(ConversionError, match=r"No family recognises this checkpoint \(model_type 'llama'"):
        load(folders("spiritlm"), loaded("usdm").tokenizer)
    with pytest.raises(ConversionError, match=r"'\[Pi63\]' as id 32566; the embedding has 32512 rows\. Is the tokenizer another model's"):
        load(folders("spiritlm"), loaded("spiritlm_expressive").tokenizer)


def test_a_vocabulary_cut_short_is_refused(folders, tmp_path):
    folder = copied(folders("spiritlm"), tmp_path / "cut")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["added_tokens_decoder"] = dict(list(config["added_tokens_decoder"].items())[:300])
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(
        ConversionError, match=r"needs 501 tokens '\[Hu0\]' to '\[Hu500\]'; this tokenizer has 298 of them and lacks '\[Hu298\]'"
    ):
        load(folder)
    assert load(folder, n_units=298).vocabulary.n_units() == 298


def test_units_added_in_another_order_are_refused(folders, tmp_path):
    """As `sorted()` would add them: `[Hu0] [Hu1] [Hu10] [Hu100] ...`."""
    folder = copied(folders("spiritlm"), tmp_path / "sorted")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    decoder = config["added_tokens_decoder"]
    for identifier, token in zip(list(decoder)[2:], sorted(f"[Hu{i}]" for i in range(501)), strict=True):
        decoder[identifier]["content"] = token
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(ConversionError, match=r"should rise evenly; '\[Hu\d+\]' is id"):
        load(folder)


def test_a_tokenizer_with_more_units_than_the_family_has_is_refused(folders):
    """They would pass for text."""
    with pytest.raises(
        ConversionError, match=r"Family 'spiritlm' has 400 units, '\[Hu0\]' to '\[Hu399\]'; this tokenizer goes on with '\[Hu400\]'"
    ):
        load(folders("spiritlm"), n_units=400)


def test_no_tokenizer_where_ids_are_found_in_it_is_refused(folders, tmp_path):
    folder = copied(folders("spiritlm"), tmp_path / "bare")
    for name in ("tokenizer.model", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(ConversionError, match=r"if the folder has none, pass text_tokenizer="):
        load(folder)
    with pytest.raises(ConversionError, match=r"finds its ids in the checkpoint's tokenizer, and there is none in the folder"):
        load(folder, family="spiritlm")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"rmsnorm": False}, "'rmsnorm' is False; only True can be expressed"),
        ({"original_rope": False}, "other rotary forms"),
        ({"multi_query_attention": False}, "lie head by head"),
        ({"post_layer_norm": False}, "always normalises before the unembedding"),
        ({"add_bias_linear": True}, "have no bias"),
        ({"pre_seq_len": 128}, "a learned prefix"),
        ({"quantization_bit": 4}, "quantised weights"),
        ({"vocab_size": 65_024}, "they say the same thing"),
        ({"num_layers": 2}, "they say the same thing"),
        ({"something_new": 1}, "Config key 'something_new' = 1 is not read"),
        ({"auto_map": {"AutoModel": "elsewhere.Model"}}, "is not GLM-4's published code"),
        ({"tie_word_embeddings": True}, "stores its output layer apart"),
    ],
)
def test_a_chatglm_config_that_computes_something_else_is_refused(change, sentence, folders, tmp_path):
    with pytest.raises(ConversionError, match=sentence):
        open_source(changed(folders("glm4voice"), tmp_path, change), family="glm4voice")


@pytest.mark.parametrize("config_change", [{"kv_channels": 6}, {"multi_query_group_num": 4}, {"ffn_hidden_size": 41}])
def test_a_chatglm_config_of_another_shape_is_refused(config_change, folders, tmp_path):
    source = open_source(changed(folders("glm4voice"), tmp_path, config_change), family="glm4voice")
    with pytest.raises(ConversionError, match=r"does not fit the pattern|has shape|has no rows"):
        hooked_model(source)


def test_a_chatglm_config_of_another_rotary_base_is_seen(folders, tmp_path):
    source, raw = open_source(changed(folders("glm4voice"), tmp_path, {"rope_ratio": 50}), family="glm4voice"), REPLICAS["glm4voice"].config
    tokens = random_tokens(12, raw["vocab_size"])
    assert worst(hooked_transformer(hooked_model(source), tokens), hugging_face(raw, random_weights(raw), tokens)) > 1e-3


def changed(folder: Path, to: Path, change: dict) -> Path:
    """The same weights beside a config that says something else."""
    config = json.loads((folder / "config.json").read_text())
    (to / "config.json").write_text(json.dumps({**config, **change}))
    (to / "model.safetensors").symlink_to(folder / "model.safetensors")
    return to


def test_hooked_transformer_turns_adjacent_pairs_of_half_a_head(loaded):
    config = loaded("glm4voice").model.cfg
    assert (config.rotary_dim, config.rotary_adjacent_pairs, config.n_key_value_heads, config.eps) == (4, True, 2, 3.90625e-08)


def test_the_text_tokenizer_of_a_folder_is_none_where_there_is_none(tmp_path):
    assert text_tokenizer_of(tmp_path, None) is None
