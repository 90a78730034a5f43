"""Shared helpers: errors, atomic file writing, threads, process start-up, paths in a checkout, and configured Keras.

Input and output: plain values. It does not depend on pictures, captions or models, and no result depends on it.
"""
