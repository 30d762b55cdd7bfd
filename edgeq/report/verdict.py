"""Whether a bundle is good, in the words that the terminal, report.html and refusals share. Takes the plain data of
report.json.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from edgeq import policy
from edgeq.report.console import share


@dataclass(frozen=True, slots=True)
class Verdict:
    """word: "Good", "Doubtful" or "Broken". output, sqnr_db: the output that is farthest from float. top1, neighbours,
    psnr_db: what it is for; see `edgeq.verification.compare`.
    """

    word: str
    output: str
    sqnr_db: float
    top1: float | None
    neighbours: float | None = None
    psnr_db: float | None = None

    @property
    def is_good(self) -> bool:
        return self.word == "Good"

    @property
    def is_broken(self) -> bool:
        return self.word == "Broken"

    @property
    def sentence(self) -> str:
        said = f"output '{self.output}' {from_float(self.sqnr_db)}{_in_words(self.sqnr_db)}"
        meant = [f"{share(self.top1)} of the samples keep their best class" if self.top1 is not None else "",
                 f"{share(self.neighbours)} keep their nearest neighbour" if self.neighbours is not None else "",
                 f"{self.psnr_db:.1f} dB PSNR as a picture" if self.psnr_db is not None else ""]
        return ", and ".join([said, *filter(None, meant)])


def verdict(verification: Mapping[str, Any]) -> Verdict:
    """Of the worst output."""
    lines = verification["against_float"]
    worst = min(lines, key=lambda line: (_RANK[_word(line)], line["sqnr_db"]))
    return Verdict(_word(worst), worst["output"], worst["sqnr_db"], worst["top1"], worst.get("neighbours"),
                   worst.get("psnr_db"))


_RANK: Final = {"Broken": 0, "Doubtful": 1, "Good": 2}


def _word(line: Mapping[str, Any]) -> str:
    top1 = 1.0 if line["top1"] is None else line["top1"]
    if line["sqnr_db"] >= policy.GOOD_DB.value and top1 >= policy.GOOD_TOP1.value:
        return "Good"
    holds = line["sqnr_db"] >= policy.BROKEN_DB.value and top1 >= policy.BROKEN_TOP1.value
    return "Doubtful" if holds else "Broken"


def remedies(report: Mapping[str, Any]) -> list[str]:
    """What this conversion has not tried yet, the likeliest first."""
    quantization = report["quantization"]
    tried = [(quantization.get("weights") == "per-tensor", "--weights per-channel"),
             (report.get("calibration") is None, "samples to fit to (--calibration)"),
             (quantization.get("method") != "auto", "--method auto"),
             (quantization.get("weight_bits") == 4, "--bits 8"),
             (True, "--keep-float with the name of the layer that report.html shows to break")]
    return [text for missing, text in tried if missing]


def decibels(decibel: float) -> str:
    return f"{decibel:.1f} dB" if abs(decibel) < 150 else "equal" if decibel > 0 else "lost altogether"


def from_float(decibel: float) -> str:
    if abs(decibel) < 150:
        return f"is {decibel:.1f} dB from the float model"
    return "equals the float model's" if decibel > 0 else "has nothing in common with the float model's"


def _in_words(decibel: float) -> str:
    """The amplitude of the error beside that of the signal, for readers who do not think in decibels."""
    return f" (an error of {100 * 10 ** (-decibel / 20):.2g} % of its size)" if abs(decibel) < 60 else ""
