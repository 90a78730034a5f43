"""Shared helpers: errors, atomic file writing, threads, process start-up, paths in a checkout, and configured Keras.

It takes and returns plain values. It does not depend on pictures, captions or models, and no result depends on it.
"""
