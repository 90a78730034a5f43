"""Comparison of runs: which differences are significant, and studies over attentions and seeds.

In come measured runs from a directory, MLflow or DVC, out go tables, JSON and pages. It does not train or evaluate.
"""
