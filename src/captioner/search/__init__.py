"""Generation of captions: greedy and beam search, and sampling.

Input: a model and feature maps. Output: captions with their attention. It does not depend on training or scoring.
"""
