"""Questions beside the main one (does the word's text drive the speech?): one file a question, each with a small result; see `docs/further-causal-tests.md`."""
