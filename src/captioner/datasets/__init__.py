"""Where data sets come from: drawn scenes, Flickr8k, or a folder of the user's own.

In come parameters and archives, out goes a `Dataset`, split into train, validation and test. It does not know how the
data set is stored or what learns from it.
"""

DATASETS = ("scenes", "flickr8k", "folder")
"""Data sets that the download stage knows."""
