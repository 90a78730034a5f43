"""Experiments in MLflow and TensorBoard. Only this package and `serving` import MLflow.

In come the results of stages, out go runs, logged models and a champion. No result depends on it.
"""
