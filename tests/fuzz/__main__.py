"""Coverage-guided fuzzing: `python -m tests.fuzz SECONDS [TARGET ...]`; each target runs in a process of its own, for as long.

A crash leaves its input in `out/fuzz/TARGET/crash-*`, ends the run with an error, and `python -m tests.fuzz --again TARGET FILE` repeats it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

OUT = Path("out/fuzz")
OPTIONS = ("-timeout=20", "-rss_limit_mb=4096", "-max_len=4096", "-print_final_stats=1", "-verbosity=0")


def one(target: str, seconds: int) -> None:
    """Fuzz one target in this process, which libFuzzer ends."""
    import atheris

    with atheris.instrument_imports(
        include=["slm_interp.convert", "slm_interp.strings", "slm_interp.speech.slamkit_files", "tomllib", "yaml"]
    ):
        from tests.fuzz.targets import TARGETS, seeds
    corpus = OUT / target / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for place, seed in enumerate(seeds(target)):
        (corpus / f"seed-{place}").write_bytes(seed)
    atheris.Setup([sys.argv[0], str(corpus), *OPTIONS, f"-max_total_time={seconds}", f"-artifact_prefix={OUT / target}/"], TARGETS[target])
    atheris.Fuzz()


def main(arguments: list[str]) -> int:
    """Every target, one after the other; the number of those that failed."""
    if arguments[0] == "--one":
        one(arguments[1], int(arguments[2]))
        return 0
    from tests.fuzz.targets import TARGETS

    if arguments[0] == "--again":
        TARGETS[arguments[1]](Path(arguments[2]).read_bytes())
        return 0
    failed = 0
    for target in arguments[1:] or TARGETS:
        print(f"== {target}", flush=True)
        failed += subprocess.run([sys.executable, "-m", "tests.fuzz", "--one", target, arguments[0]], check=False).returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
