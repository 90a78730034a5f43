"""What can be chosen by name, known without loading Keras."""

ATTENTIONS = {
    "uniform": "UniformAttention",
    "bahdanau": "BahdanauAttention",
    "dot": "DotProductAttention",
}
"""Name in `params.yaml`: class in `captioner.attention`."""

DATASETS = ("scenes", "flickr8k", "folder")
"""Data sets that the download stage knows."""

ENCODERS = ("efficientnet_lite0", "mobilenet", "densenet121")
"""Frozen networks that `captioner.encoders` builds."""

SPICE = "SPICE"
METRICS = {
    "BLEU": ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4"),
    "METEOR": ("METEOR",),
    "ROUGE-L": ("ROUGE-L",),
    "CIDEr": ("CIDEr",),
    SPICE: ("SPICE",),
}
"""Metrics of captions, and the scores that each computes."""
