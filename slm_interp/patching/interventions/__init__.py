"""What is done to a run, as plain TransformerLens hooks: import the module you need."""
