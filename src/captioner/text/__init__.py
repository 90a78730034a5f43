"""The vocabulary: encoding of captions as token numbers, and decoding.

Input: captions. Output: arrays of token numbers, and the reverse. It does not depend on pictures and models.
"""

FEWEST_SUBWORDS = 260  # a vocabulary of subwords has the four special tokens and the 256 bytes
