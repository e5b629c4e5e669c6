"""Loading at full size: checkpoints of random weights in the true shapes and layouts, ours against transformers and TransformerLens."""
