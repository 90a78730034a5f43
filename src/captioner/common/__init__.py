"""Shared helpers: errors, atomic file writing, threads, work on a cluster, process start-up, paths, configured Keras.

Input and output: plain values. It does not depend on pictures, captions or models, and no result depends on it.
"""
