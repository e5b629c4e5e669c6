"""The streamed unembedding: what every lens and every outcome reads out of residual vectors.

`[layer, pos, d_vocab]` never exists. The algorithm, for a block of rows (residual vectors):

1. Products of the block with the columns of `W_U` that are read, group by group (a group is a modality), into
   one reused buffer. `W_U` stays the view it is; ids that are in no group cost nothing.
2. A few rows at a time, while they sit in the cache and group by group: the maximum of every 128 columns; the
   log-sum-exp; the sum of `p * logit`; how many logits are above, and how many equal to, each target's.
3. Top-k: the k best of those maxima name `128 k` candidate columns, which hold the k best logits, ties included.

Targets' logits are taken from the buffer that they are ranked in, so equal logits are found equal.

*Declared rules.* Ranks start at 0 and are mid-ranks: ids with a greater logit plus half of the other ids with an
equal logit. That favours no id for its place in the vocabulary and gives a row of equal logits the chance level; in
bfloat16 at 152,000 ids equal logits are the normal case, so their number is reported as `target_ties` (rank -/+
ties / 2 are the optimistic and pessimistic ranks). Lists put greater logits first and, among equals, smaller ids.
Logits have the dtype of the model, as the model computes them; everything after is float32 (float64 for float64).
"""

from slm_interp.readout.columns import Unembedding, modality_groups
from slm_interp.readout.divergence import divergence
from slm_interp.readout.stream import Readout, read_out

__all__ = ["Readout", "Unembedding", "divergence", "modality_groups", "read_out"]
