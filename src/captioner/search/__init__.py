"""Captions from a model: greedy and beam search, and sampling.

In come a model and feature maps, out go captions with their attention. It does not know how the model was trained or
how its captions are judged.
"""
