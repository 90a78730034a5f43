"""`Captioner`: a trained model with its encoder, for pictures as people give them.

In come paths, addresses, bytes or arrays, out go captions. It does not know the pipeline and its files.
"""
