"""Reports for people: attention figures, curves, the evaluation report, and formatting of numbers.

Input: measured values. Output: pictures and HTML. It computes no score.
"""
