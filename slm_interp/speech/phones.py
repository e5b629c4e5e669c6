"""eSpeak's phonemes in the phone set of the acoustic model: a table and the two lines that read it.

Left are the mnemonics of eSpeak NG's American English, without stress marks; right the ARPABET phones, without stress,
of the CMU pronouncing dictionary. The left side is what 60,000 words of that dictionary make eSpeak say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from slm_interp.errors import SpeechError

STRESS_AND_PAUSES: Final = "',%=_|!"

ESPEAK_TO_ARPABET: Final[dict[str, tuple[str, ...]]] = {
    # vowels
    "0": ("AA",), "A:": ("AA",), "a": ("AE",), "aa": ("AE",), "a#": ("AH",), "V": ("AH",), "@": ("AH",), "@2": ("AH",), "@-": ("AH",),
    "O:": ("AO",), "O": ("AO",), "O2": ("AO",), "aU": ("AW",), "aI": ("AY",), "E": ("EH",), "3": ("ER",), "3:": ("ER",), "eI": ("EY",),
    "I": ("IH",), "I2": ("IH",), "I#": ("IH",), "i": ("IY",), "i:": ("IY",), "oU": ("OW",), "o": ("OW",), "OI": ("OY",), "U": ("UH",),
    "u:": ("UW",), "u": ("UW",),
    # vowels with what follows them
    "A@": ("AA", "R"), "O@": ("AO", "R"), "o@": ("AO", "R"), "e@": ("EH", "R"), "i@3": ("IH", "R"), "U@": ("UH", "R"),
    "i@": ("IY", "AH"), "aI@": ("AY", "AH"), "aI3": ("AY", "ER"), "@L": ("AH", "L"), "A~": ("AA", "N"),
    # consonants
    "b": ("B",), "tS": ("CH",), "d": ("D",), "D": ("DH",), "f": ("F",), "g": ("G",), "h": ("HH",), "dZ": ("JH",), "k": ("K",), "x": ("K",),
    "l": ("L",), "l#": ("L",), "m": ("M",), "n": ("N",), "n-": ("AH", "N"), "N": ("NG",), "p": ("P",), "r": ("R",), "s": ("S",),
    "S": ("SH",), "t": ("T",), "t#": ("T",), "t2": ("T",), "?": ("T",), "T": ("TH",), "v": ("V",), "w": ("W",), "j": ("Y",), "z": ("Z",),
    "Z": ("ZH",),
    # marks that make no sound of their own: a glide between vowels, length, an r that links, a pause
    ";": (), ":": (), "r-": (), "": (),
}  # fmt: skip

ARPABET: Final = frozenset(phone for phones in ESPEAK_TO_ARPABET.values() for phone in phones)


def arpabet(mnemonics: Sequence[str], word: str) -> tuple[str, ...]:
    """The ARPABET phones of a word, from eSpeak's mnemonics. An r after an r-coloured vowel is said once.

    Args:
        mnemonics: what `synthesis.phones` gives.
        word: for the message.

    Raises:
        SpeechError: a mnemonic that is not in the table (another language's sound), or no sound at all.
    """
    found: list[str] = []
    for mnemonic in mnemonics:
        bare = mnemonic.lstrip(STRESS_AND_PAUSES).replace("::", ":")
        if bare not in ESPEAK_TO_ARPABET:
            raise SpeechError(
                f"eSpeak says {word!r} with the sound {bare!r}, which the acoustic model has not. "
                f"Give its phones: pronunciations={{{word!r}: 'AH B AW T'}}."
            )
        for phone in ESPEAK_TO_ARPABET[bare]:
            if not (phone == "R" and found and found[-1] in ("R", "ER")):
                found.append(phone)
    if not found:
        raise SpeechError(f"eSpeak makes no sound for {word!r}. Take it out of the transcript, or give its phones in pronunciations.")
    return tuple(found)
