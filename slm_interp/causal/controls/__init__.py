"""What every effect of a causal test is compared with: pure functions of a run, a layer, positions and changes.

| module | question |
|---|---|
| `random` | would any vector of this size do as much? |
| `variance` | would any subspace do as much in which the stream varies as much? |
| `distance` | are the edited residuals still like natural ones? |
| `readers` | is what was changed read by later blocks, and does it vary by itself? |
| `direct` | does it reach the logits without any later block, and do later blocks undo it? |
"""
