"""Data sets: pictures with captions, split into train, validation and test."""
