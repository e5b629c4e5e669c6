"""What the tests ask of TransformerLens where 3.9 and 4.x name it differently, and what is known to hold on one of them only."""

from __future__ import annotations

from typing import Any

from torch import nn

from slm_interp.hooked.installed import MAJOR

# Test (or one parameter set of it, as pytest names it): why it is skipped there.
ABSENT: dict[int, dict[str, str]] = {
    3: {
        "test_a_bias_without_a_place_is_refused_on_4_unless_it_is_zero": "HookedTransformer has a place for every bias",
        "test_the_same_numbers_as_transformer_lens_s_own_fit": "its JacobianLens takes no HookedTransformer",
        "test_transformer_lens_s_own_reading_of_a_prompt_is_ours": "its JacobianLens takes no HookedTransformer",
        "test_transformer_lens_4_s_own_logit_lens_has_the_same_numbers_at_every_layer_and_between": "it has no logit lens of its own",
        "test_transformer_lens_4_reads_what_a_block_adds_alike": "it has no readout of its own",
        "test_a_site_whose_slope_is_that_of_a_part_is_refused_on_4": "what stands at resid_mid reaches all that follows",
    },
    4: dict.fromkeys(
        (
            "test_attribution_is_exact_where_the_path_is_linear",
            "test_queries_and_keys_are_exact_through_the_softmax_where_all_after_it_is_linear",
            "test_overlapping_spans_and_matched_norms_go_through_the_softmax_alike",
            "test_saturated_attention_hides_from_slopes_and_not_from_the_softmax",
            "test_a_model_of_one_block_has_nothing_to_drop",
        ),
        "it has no model without norms",
    )
    | {
        "test_the_same_numbers_as_transformer_lens": "its patching takes a TransformerBridge and other names of hooks",
        "test_every_name_is_there": "its patching has more",
        "test_edges_into_an_input_sum_to_what_its_whole_change_costs[opt]": "it has no split inputs for OPT to compare with",
        "test_a_key_dropped_for_one_span_of_destinations_is_patched_for_those_alone": "its turned queries are shown to hooks and not read back",
    }
    | dict.fromkeys(
        (
            f"test_a_small_change_of_one_edge_changes_the_outcome_by_its_score[{name}]"
            for name in ("llama", "llama-mha-tied", "qwen3-biases-tied")
        ),
        "its native attention is computed in float32, too coarse for a change of a millionth",
    ),
}

# Classic parameters that are copied and not mapped, by the end of their name, for architectures that begin so.
COPIED = {"gpt_neox": ("W_Q", "W_K", "W_V", "b_Q", "b_K", "b_V")} if MAJOR == 4 else {}


def process(model: Any, **options: bool) -> None:
    """Fold norms and centre weights in place: `fold_ln`, `center_writing_weights`, `center_unembed`, `fold_value_biases`."""
    if MAJOR == 4:
        model.process_weights(**options)
    else:
        model.load_and_process_state_dict(model.state_dict(), **options)


def query_weights(model: Any, layer: int) -> nn.Parameter:
    """The leaf tensor that a block's queries are computed with."""
    attention = model.blocks[layer].attn
    return attention.q.weight if MAJOR == 4 else attention.W_Q
