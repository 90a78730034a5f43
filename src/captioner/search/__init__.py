"""Generation of captions: greedy and beam search, and sampling.

In come a model and feature maps, out go captions with their attention. It does not depend on
training or scoring.
"""
