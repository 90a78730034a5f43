"""`Captioner`: a trained model with its encoder, for pictures in every form that users have.

In come paths, addresses, bytes or arrays, out go captions. It does not depend on the pipeline and
its files.
"""
