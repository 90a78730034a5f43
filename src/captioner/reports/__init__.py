"""Reports for people: attention figures, curves, the evaluation report, and formatting of numbers.

In come measured values, out go pictures and HTML. It computes no score.
"""
