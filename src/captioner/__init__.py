"""Captioner: describes photographs in words, and shows where it looked for each word."""

__version__ = "0.1.0"
