"""Experiments in MLflow and TensorBoard. No other package imports MLflow, save `serving`, which answers its server.

In come the results of stages, out go runs, logged models and a champion. It makes no result.
"""
