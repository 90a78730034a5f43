"""How good a model is: baselines, intervals, where attention looks, and the files of an evaluation.

In come captions, scores and statistics, out go `results/evaluate/` and `results/baselines/`. It does not know MLflow or
other runs.
"""

BASELINES = {
    "constant": "one caption for all pictures",
    "person": "a person, against one reference fewer",
    "unigram": "word frequencies",
    "unigram-by-position": "word frequencies by position",
    "picture-blind": "a model without pictures",
}
"""What is measured of the data and of no model: the end of the score's name, and what that is."""
CHANCE = ("pointing-chance", "box-share")
"""What looking at random reaches: baselines as well, of the objects that a model names."""
