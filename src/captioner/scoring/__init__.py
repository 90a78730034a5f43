"""Caption metrics by picture: BLEU, METEOR, ROUGE-L, CIDEr, SPICE, and the share of true captions.

Input: captions and references. Output: scores and the statistics that they are computed from. It does not know which
model generated the captions.
"""

SPICE = "SPICE"
METRICS = {
    "BLEU": ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4"),
    "METEOR": ("METEOR",),
    "ROUGE-L": ("ROUGE-L",),
    "CIDEr": ("CIDEr",),
    SPICE: ("SPICE",),
}
"""Caption metrics, and the scores that each computes."""
