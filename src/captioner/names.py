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
