"""The parent's part: run a way in a process of its own, sample its memory, end it before the machine runs out."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

RESERVE_GB = 4.0
LIMIT_SECONDS = 900.0
EVERY_SECONDS = 0.01
# What a child is doing after it has said a phase, and the phase that it will say next.
DOING = {
    "importing": "importing",
    "imported": "loading",
    "loaded": "in the forward",
    "forward": "reading",
    "read": "at the tokenizer",
    "tokenizer": "ending",
}
NEXT = {"load": ("imported", "loaded"), "forward": ("loaded", "forward"), "read": ("forward", "read"), "tokenizer": ("read", "tokenizer")}


def status_gb(path: str, *keys: str) -> dict[str, float]:
    """Lines of a /proc file in GB."""
    lines = dict(line.split(":", 1) for line in Path(path).read_text().splitlines() if ":" in line)
    return {key: int(lines[key].split()[0]) * 1024 / 1e9 for key in keys if key in lines}


def watched(way: str, folder: Path) -> dict[str, Any]:
    """Run a child; its seconds by phase, and its peaks above what it had after the imports.

    Anonymous memory (`RssAnon`) is what the process has made, file-backed memory (`RssFile`) pages of files, which the
    system may drop.
    """
    command = [sys.executable, "-m", "tests.benchmarks.full_size.ways", way, str(folder)]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    lines: list[dict[str, Any]] = []
    reader = threading.Thread(target=lambda: lines.extend(json.loads(line) for line in process.stdout or () if line.startswith("{")))
    reader.start()
    ended, base = None, 0.0
    peaks: dict[str, dict[str, float]] = {}
    while process.poll() is None:
        try:
            now = status_gb(f"/proc/{process.pid}/status", "RssAnon", "RssFile")
        except (FileNotFoundError, ProcessLookupError):
            break
        phase = lines[-1]["phase"] if lines else "importing"
        if phase == "importing" and now:
            base = now["RssAnon"]
        peak = peaks.setdefault(phase, {})
        peak.update({key: max(value, peak.get(key, 0.0)) for key, value in now.items()})
        if status_gb("/proc/meminfo", "MemAvailable")["MemAvailable"] < RESERVE_GB:
            ended = f"ended while {DOING[phase]}: less than {RESERVE_GB} GB of the machine were left"
        elif time.perf_counter() - start > LIMIT_SECONDS:
            ended = f"ended while {DOING[phase]}, after {LIMIT_SECONDS:.0f} s"
        if ended:
            process.kill()
            break
        time.sleep(EVERY_SECONDS)
    process.wait()
    reader.join()
    if process.returncode and not ended:
        ended = f"failed: exit code {process.returncode}"
    return {**({"ended": ended} if ended else {}), **summed(lines, peaks, base)}


def summed(lines: list[dict[str, Any]], peaks: dict[str, dict[str, float]], base: float) -> dict[str, float]:
    """Seconds and peaks of every phase that was begun."""
    seconds = {line["phase"]: line.get("seconds") for line in lines}
    result: dict[str, Any] = {}
    for name, (before, after) in NEXT.items():
        peak = peaks.get(before, {})
        if peak and (name in ("load", "forward") or after in seconds):
            result[f"{name}_seconds"] = seconds.get(after)
            result[f"{name}_peak_anonymous_gb"] = max(0.0, peak.get("RssAnon", base) - base)
            result[f"{name}_peak_file_backed_gb"] = peak.get("RssFile")
    return {key: round(value, 3) for key, value in result.items() if value is not None}


def drop_caches() -> bool:
    """Forget every file in memory, where the system lets us."""
    try:
        subprocess.run(["sync"], check=True)
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except (OSError, subprocess.CalledProcessError):
        return False
    return True
