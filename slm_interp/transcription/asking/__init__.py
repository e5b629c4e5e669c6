"""How a word is asked for: which one, spelled how, at which positions, beside which nulls, pooled by which rule."""
