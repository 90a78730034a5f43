"""Experiments in MLflow and TensorBoard. Only this package and `serving` import MLflow.

Input: the results of stages. Output: runs, logged models and a champion. No result depends on it.
"""
