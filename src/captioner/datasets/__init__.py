"""Sources of data sets: drawn scenes, Flickr8k, or a folder of the user's own.

Input: parameters and archives. Output: a `Dataset`, split into train, validation and test. It does not know how the
data set is stored or used.
"""

DATASETS = ("scenes", "flickr8k", "folder")
"""Names of the data sets that the stage `download` supports."""
