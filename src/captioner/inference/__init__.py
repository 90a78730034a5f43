"""`Captioner`: a trained model with its encoder, for pictures in every form that users have, and for whole shards.

Input: paths, addresses, bytes or arrays. Output: captions, of shards also their scores. It does not depend on the
pipeline and its files.
"""
