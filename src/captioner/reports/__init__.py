"""What people look at: figures of attention, curves, the page of an evaluation, and numbers in words.

In come measured values, out go pictures and HTML. It computes no score.
"""
