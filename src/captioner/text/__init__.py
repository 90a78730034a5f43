"""Captions to numbers and back, with a vocabulary.

In come captions, out go arrays of token numbers, and the reverse. It knows nothing of pictures and models.
"""
