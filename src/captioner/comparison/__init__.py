"""Comparison of runs: which differences are significant, and studies over attentions and seeds.

Input: measured runs from a directory, MLflow or DVC. Output: tables, JSON and pages. It does not train or evaluate.
"""
