# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Where a captioner looks
#
# A lesson on attention for image captioning: three ways to look at a picture, from their equations to trained models,
# and the questions that one should ask of them, each answered by an experiment that runs here.
#
# The code of the models is not in this notebook. It is imported from the package `captioner`, the same that the
# pipeline trains, so that what you learn here holds there.
#
# No GPU is needed. Measured once, on two cores, the whole notebook took four and a half minutes of processor time, less
# than half of them for the three main trainings; how long yours take, section 4 says.
#
# What is found here is said by the cells, in sentences made of the numbers of your run. The text between them says what
# is asked and why, so that it stays true whatever comes out.
#
# *As a script:* `notebooks/attention.py` is this same lesson as plain Python; `python notebooks/attention.py` runs it,
# and writes the pictures into the folder `attention-lesson`. The notebook is made from it by
# [jupytext](https://jupytext.readthedocs.io).
#
# *On Colab:* choose *File → Upload notebook*, upload `attention.ipynb`, and set `PACKAGE` in the next cell, since Colab
# does not have the package. Put there `git+https://` and the address of a repository that Colab may read, or the path
# of a wheel that you made with `pip wheel --no-deps .` and uploaded to the session's files. **This was not tried on
# Colab.** What is tested is that the notebook runs from top to bottom on a machine of one's own.

# %% [markdown]
# ## 0. Set-up
#
# Where `captioner` is installed, as after `make setup`, there is nothing to do. Elsewhere put into `PACKAGE` what pip
# should install: the path of a checkout or a wheel, or `git+https://` and the address of the repository. It is on no
# package index, so `pip install captioner` does not get it. It needs Python 3.11 or later.

# %%
import importlib.util
import subprocess
import sys

PACKAGE = ""

if importlib.util.find_spec("captioner") is None:
    if not PACKAGE:
        raise ModuleNotFoundError(
            "captioner is not installed: set PACKAGE above to a checkout, a wheel or a git+https address"
        )
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", PACKAGE], check=True)

# %%
import logging
import os
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

from captioner.common.startup import fast_start

with fast_start():  # TensorFlow has much to say when it starts, and much to load
    from captioner.common.keras import keras, ops

import matplotlib.pyplot as plt
import numpy as np

from captioner.common.startup import keep_freed_memory
from captioner.data import images
from captioner.data.dataset import captions_by_image
from captioner.datasets.scenes import drawing, grammar
from captioner.encoders import networks
from captioner.evaluation.attention_metrics import attention_on_objects
from captioner.evaluation.baselines import nll_of_frequencies
from captioner.evaluation.bootstrap import LEVEL, differences
from captioner.features.extract import Extractor
from captioner.features.store import Features, rows_of
from captioner.inference.captioner import Captioner
from captioner.model.attention.bahdanau import BahdanauAttention
from captioner.model.attention.dot import DotProductAttention
from captioner.model.attention.uniform import UniformAttention
from captioner.params import ModelParams, Recipe
from captioner.reports.attention_figure import attention_figure
from captioner.reports.curves import COLOURS
from captioner.reports.wording import decimal, digits, probability
from captioner.scoring.statistics import SufficientStatistics, mean
from captioner.search.generators import Generator
from captioner.text.vocabulary import SPECIAL_TOKENS, START, Vocabulary
from captioner.training import fit as training
from captioner.training.likelihood import nll_of_decoder
from captioner.training.losses import TokenCrossEntropy, TokenNegativeLogLikelihood
from captioner.training.pixels import EndToEnd
from captioner.training.teacher_forcing import TeacherForcing

# %% [markdown]
# `PICTURES` is the size of the lesson. The tests set it to a few through the environment, only to see that every cell
# runs: read nothing into what models of so few pictures say.

# %%
keep_freed_memory()  # measured once, getting memory again took a third of each training step
logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it counts the models that a lesson compiles, and warns
PICTURES = int(os.environ.get("CAPTIONER_NOTEBOOK_PICTURES", "1200"))
SEED = 1
IN_NOTEBOOK = "get_ipython" in globals()


def show(name, figure):
    """Show a figure of matplotlib or Pillow here, or, in a script, write it to a file."""
    if IN_NOTEBOOK:
        from IPython import display as notebook

        notebook.display(figure)
    else:
        path = Path("attention-lesson", f"{name}.png")
        path.parent.mkdir(exist_ok=True)
        (figure.savefig if isinstance(figure, plt.Figure) else figure.save)(path)
        print(f"see {path}")
    if isinstance(figure, plt.Figure):
        plt.close(figure)


# %% [markdown]
# ## 1. The task, and what a model sees
#
# A picture goes in, a sentence comes out. Our pictures are drawn: a large shape and a small one. Each sentence says
# where the large one stands. So a sentence is *true* of its picture or not, and we know where one has to look to find
# out: photographs offer neither.

# %%
data = drawing.load(
    {"train": PICTURES, "validation": min(100, PICTURES), "test": min(200, PICTURES)},
    objects=(2, 2),
    captions=3,
    seed=SEED,
)
encoded = dict(data.pictures)  # name: PNG
pixels = {name: images.decode(picture, images.IMAGE_SIZE) for name, picture in encoded.items()}
names = {split: rows["image"].unique().tolist() for split, rows in data.captions.groupby("split")}
references = captions_by_image(data.captions)
things = grammar.objects_by_image(data.objects)

figure, panels = plt.subplots(1, 3, figsize=(10, 4), layout="constrained")
for panel, name in zip(panels, names["train"], strict=False):
    panel.imshow(pixels[name])
    panel.set_axis_off()
    panel.set_title("\n".join(references[name]), fontsize=8)
show("scenes", figure)

# %% [markdown]
# A convolutional network, trained on photographs and left as it is, turns the picture of 224 × 224 pixels into a map of
# 7 × 7 places with 1,280 numbers each. Since it does not learn, this is done once, before all training.

# %%
began = time.perf_counter()
extractor = Extractor("efficientnet_lite0")
names_in_order = list(pixels)
features = Features(
    grid=extractor(np.stack([pixels[name] for name in names_in_order])),
    rows={name: row for row, name in enumerate(names_in_order)},
    encoder=extractor.encoder,
    weights=extractor.weights,
    weights_sha256=extractor.weights_sha256,
)
print(f"{len(pixels):,} pictures in {time.perf_counter() - began:.0f} s: map {features.grid.shape}")

# %% [markdown]
# The 49 places are all that the language side ever gets. It projects them to smaller vectors $x_1 \dots x_{49}$, and
# adds to each a learned vector that tells its place. What is left to decide: which of them to use for the next word?
#
# ## 2. Three answers, as equations
#
# Before word $t$ the decoder has a state $s_t$: what it has said so far, and what it means to say. Attention turns the
# places and the state into one *context* vector, a weighted mean:
#
# $$z_t = \sum_j p_{tj}\, x_j, \qquad p_{tj} = \frac{e^{\alpha_{tj}}}{\sum_k e^{\alpha_{tk}}}$$
#
# The three mechanisms differ only in the scores $\alpha_{tj}$. To check the layers against the equations, take a
# picture of 3 places with 4 numbers each, and a state of 5:

# %%
rng = np.random.default_rng(SEED)
x = rng.normal(size=(1, 3, 4)).astype("float32")  # [B, P, E]
s = rng.normal(size=(1, 5)).astype("float32")  # [B, H]


def softmax(scores):
    """Turn scores into weights that sum to 1."""
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def agree(name, layer_says, hand_says):
    """Print the weights, and make sure that layer and hand computation agree in context and weights."""
    for one, other in zip(layer_says, hand_says, strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(one), other, rtol=1e-4, atol=1e-6)
    print(f"{name}: by hand as by the layer, p = {np.round(hand_says[1][0], 3)}")


# %% [markdown]
# ### Uniform: do not look
#
# $$\alpha_{tj} = 0 \quad\Rightarrow\quad p_{tj} = \tfrac{1}{P}$$
#
# The context is the mean of all places, the same at every word. This is the baseline: what looking has to beat.

# %%
layer = UniformAttention()
weights = np.full((1, 3), 1 / 3)
agree("uniform", layer(x, s), (x.mean(axis=1), weights))

# %% [markdown]
# ### Additive, or Bahdanau's
#
# $$\alpha_{tj} = W \tanh(U s_t + V x_j + b) + c$$
#
# A small network judges each pair of state and place. (Bahdanau, Cho, Bengio 2015; for pictures Xu et al. 2015.)

# %%
layer = BahdanauAttention(units=6)
found = layer(x, s)
U, V, b, W, c = (
    ops.convert_to_numpy(each)
    for each in (
        layer.state_projection.kernel,
        layer.feature_projection.kernel,
        layer.feature_projection.bias,
        layer.score.kernel,
        layer.score.bias,
    )
)
scores = np.tanh((s @ U)[:, None] + x @ V + b) @ W + c  # [B, P, 1]
weights = softmax(scores[..., 0])
agree("additive", found, (np.einsum("bp,bpe->be", weights, x), weights))

# %% [markdown]
# ### Multiplicative, or dot product
#
# $$\alpha_{tj} = (Q s_t)^\top K x_j$$
#
# The state asks a question, each place has a key, and the score says how well the two fit. (Luong, Pham, Manning 2015.)

# %%
layer = DotProductAttention(units=6)
found = layer(x, s)
Q, K = (ops.convert_to_numpy(each.kernel) for each in (layer.query_projection, layer.key_projection))
scores = np.einsum("ba,bpa->bp", s @ Q, x @ K)
weights = softmax(scores)
agree("multiplicative", found, (np.einsum("bp,bpe->be", weights, x), weights))

# %% [markdown]
# ### What `project_keys` is for
#
# $V x_j + b$ and $K x_j$ do not depend on the state: they are the same for each word of a caption. `project_keys`
# computes them once, and the call takes them as `keys`. The result is the same; what that saves is measured here:

# %%
many_places = rng.normal(size=(32, 49, 256)).astype("float32")
states = rng.normal(size=(20, 32, 512)).astype("float32")  # of 20 words


def seconds(run, times=5):
    """Return how long a function takes, the fastest of a few times, after one for nothing."""
    run()
    return min(_clocked(run) for _ in range(times))


def _clocked(run):
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


for layer in (BahdanauAttention(256), DotProductAttention(256)):
    layer(many_places, states[0])  # makes its weights

    def with_prepare(layer=layer):
        """Look 20 times with keys computed once."""
        keys = layer.project_keys(many_places)
        return [layer(many_places, state, keys=keys)[1] for state in states]

    def without(layer=layer):
        """Look 20 times, computing the keys each time."""
        return [layer(many_places, state)[1] for state in states]

    for one, other in zip(with_prepare(), without(), strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(one), ops.convert_to_numpy(other), rtol=1e-3, atol=1e-6)
    saved = seconds(without) / seconds(with_prepare)
    print(f"{type(layer).__name__}: the same weights, {saved:.2f} times as fast with keys prepared")

# %% [markdown]
# ## 3. Why the softmax needs the state
#
# Attention is of use only if its weights *move* from word to word. There is an easy way to get that wrong. Leave out
# the $\tanh$:
#
# $$\alpha_{tj} = W(U s_t + V x_j) = \underbrace{W U s_t}_{\text{the same for all } j} +\; W V x_j$$
#
# The state shifts all scores alike, and a softmax does not see a common shift: the weights are fixed, whatever the
# state says. The code would run and train, and would never look anywhere else. State and place have to *meet*, inside a
# $\tanh$ or in a product:

# %%
two_states = rng.normal(size=(2, 5)).astype("float32")
one_picture = np.repeat(x, 2, axis=0)
moved = {}
for kind in (UniformAttention, BahdanauAttention, DotProductAttention):
    weights = ops.convert_to_numpy(kind(6)(one_picture, two_states)[1])
    moved[kind.__name__] = np.abs(weights[0] - weights[1]).sum() / 2
weights = softmax(((two_states @ U)[:, None] + one_picture @ V) @ W[:, 0])
moved["additive without tanh"] = np.abs(weights[0] - weights[1]).sum() / 2
for name, share in moved.items():
    print(f"{name}: a change of state moves {share:.1%} of the weight")

# %% [markdown]
# That the weights move is worth a test in any project of attention; this one has it.
#
# ## 4. Training
#
# The same decoder, an LSTM, three times, with the attention as the only difference. It learns under *teacher forcing*:
# it reads the true words before $t$, and is to predict word $t$; the loss is the mean of $-\log p$, in nats per word.

# %%
vocabulary = Vocabulary.build(data.captions["caption"][data.captions["split"] == "train"])
sizes = ModelParams(embedding_size=128, state_size=256, attention_size=128, spatial_encoding="learned")
recipe = Recipe(
    epochs=4,
    blind_epochs=1,
    patience=4,
    batch_size=8,
    captions_per_picture=3,
    maximum_words=13,
    learning_rate=0.0015,
    schedule="cosine",
    gradient_norm=5.0,
    label_smoothing=0.0,
    feature_dropout=0.0,
    word_dropout=0.0,
    output_dropout=0.0,
)


class Curve(keras.callbacks.Callback):
    """Notes the loss along the first pass and after each, and may end training after some passes."""

    def __init__(self, passes=recipe.epochs):
        super().__init__()
        self.passes = passes
        self.first_pass, self.validation = [], []

    def on_train_batch_end(self, batch, logs=None):
        """Note the mean loss since the pass began."""
        if not self.validation:
            self.first_pass.append(logs["nll"])

    def on_epoch_end(self, epoch, logs=None):
        """Note the loss on pictures that are not trained on."""
        self.validation.append(logs["val_nll"])
        if len(self.validation) == self.passes:
            self.model.stop_training = True


def batches(split, of=features, recipe=recipe, seed=None):
    """Return a split's batches, in another order each pass if there is a seed."""
    return training.batches(of, data.captions, split, vocabulary, recipe, seed)


def untrained(attention, of=features, sizes=sizes, vectors=None):
    """Return a decoder before training, always begun with the same random numbers, or with word vectors `[V, D]`."""
    keras.utils.set_random_seed(SEED)
    return training.build(sizes, recipe, attention, len(vocabulary), of.channels, of.positions, vectors)


def fit(decoder, of=features, recipe=recipe, passes=recipe.epochs):
    """Train a decoder in place, and return its curve."""
    curve = Curve(passes)
    training_batches = batches("train", of, recipe, SEED)
    training.train(decoder, training_batches, batches("validation", of), recipe, [curve], "val_nll")
    return curve


# %%
decoders, curves, took = {}, {}, {}
processor = time.process_time()
for attention in ("uniform", "bahdanau", "dot"):
    print(attention)
    began = time.perf_counter()
    decoders[attention] = untrained(attention)
    curves[attention] = fit(decoders[attention])
    took[attention] = time.perf_counter() - began
processor = time.process_time() - processor
print("Wall clock, compiling included:", ", ".join(f"{name} {each:.0f} s" for name, each in took.items()))
print(f"All three: {sum(took.values()):.0f} s, of which the processor worked {processor:.0f} s, over all its cores.")

# %% [markdown]
# ### What there is to beat
#
# A likelihood says nothing by itself. Two models that never see a picture say what grammar alone is worth: the
# frequencies of words at each position of a caption, and the same decoder trained on an empty map.

# %%
blank = Features.blank(data.captions["image"])
blind = untrained("uniform", blank, sizes.model_copy(update={"spatial_encoding": "none"}))
fit(blind, blank, recipe.model_copy(update={"epochs": 2}), passes=2)

test_references = {name: references[name] for name in names["test"]}
train_captions = [caption for name in names["train"] for caption in references[name]]
frequencies = nll_of_frequencies(train_captions, test_references, vocabulary, recipe.maximum_words).scores()
nll = {
    "word frequencies by position": frequencies["nll-unigram-by-position"],
    "never sees the picture": nll_of_decoder(blind, batches("test", blank)).scores()["nll"],
    **{name: nll_of_decoder(decoder, batches("test")).scores()["nll"] for name, decoder in decoders.items()},
}
for name, value in nll.items():
    print(f"{value:.3f} nats per word: {name}")

# %% [markdown]
# Now let each model write: greedily, the most probable word each time, until it says that the sentence ends. Then hold
# what it wrote against the picture. *Pointing* asks, at the word for a shape, whether the place of highest weight lies
# in the box of that object; *mass* is how much weight lies in it. Chance is what even weights come to.


# %%
def write(decoder):
    """Return a caption for each test picture, by its name."""
    captioner = Captioner(decoder, vocabulary, {}, recipe.maximum_words, {})
    generator = Generator(decoder, beam=1, maximum=recipe.maximum_words, batch_size=len(names["test"]))
    written = captioner.captions(generator, features.grid, rows_of(features, names["test"]))
    return dict(zip(names["test"], written, strict=True))


def truth(captions):
    """Return for each caption whether it is true of its picture, 1 or 0."""
    return np.array([grammar.is_true(caption.text, things[name]) for name, caption in captions.items()], float)


def tested(one, other, decimals, unit):
    """Return by how much a score of one model is above another's on the same pictures, in numbers and in words."""
    (found,) = differences(one, other).values()
    if found.nothing:
        return found, f"0 {unit} (equal on each picture)"
    decimals = digits(found.value, decimals)
    ends = [decimal(end, decimals, signed=True) for end in (found.low, found.high) if not np.isnan(end)]
    interval = f"95 % interval {' to '.join(ends)}, " if ends else ""
    return found, f"{decimal(found.value, decimals, signed=True)} {unit} ({interval}{probability(found.p, named=True)})"


def verdict(name, one, other_name, other):
    """Say how many true captions two models wrote, and whether the choice of pictures may explain the difference."""
    found, told = tested(
        *(SufficientStatistics(names["test"], {"true": mean(100 * each)}) for each in (one, other)), 1, "points"
    )
    chance = "" if found.nothing else ", which the choice of pictures may explain"
    print(
        f"{name} {one.mean():.1%}, {other_name} {other.mean():.1%} of {len(one)} captions true: a difference of {told}"
        f"{', more than the choice of pictures explains' if found.p < LEVEL else chance}."
    )


def percent(value, width):
    """Write a share, which there is none of where nothing was counted."""
    return f"{'–' if np.isnan(value) else f'{value:.1f}':>{width}} %"


written = {name: write(decoder) for name, decoder in decoders.items()}
true = {name: truth(captions) for name, captions in written.items()}
nothing_named = dict.fromkeys(("pointing-accuracy", "pointing-chance", "attention-mass", "box-share"), np.nan)
looks = {
    name: nothing_named | attention_on_objects(captions, data.objects).scores() for name, captions in written.items()
}
print(f"{'':10}true captions  pointing (chance)  mass (chance)")
for name in decoders:
    found = looks[name]
    print(
        f"{name:10}{true[name].mean():>13.1%}"
        f"{percent(found['pointing-accuracy'], 11)}{percent(found['pointing-chance'], 5)}"
        f"{percent(found['attention-mass'], 7)}{percent(found['box-share'], 5)}"
        + ("  (no object was named: no looks to measure)" if np.isnan(found["pointing-accuracy"]) else "")
    )
verdict("dot", true["dot"], "uniform", true["uniform"])
verdict("dot", true["dot"], "bahdanau", true["bahdanau"])
print(
    f"From uniform to dot the likelihood goes from {nll['uniform']:.3f} to {nll['dot']:.3f} nats per word, and the "
    f"share of true captions from {true['uniform'].mean():.1%} to {true['dot'].mean():.1%}."
)

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
passes = range(1, recipe.epochs + 1)
for (name, curve), colour in zip(curves.items(), COLOURS, strict=False):
    left.plot(passes, curve.validation, ".-", color=colour, label=name)
left.axhline(
    nll["never sees the picture"], color="#444444", linestyle="--", linewidth=1, label="never sees the picture (test)"
)
left.set(xlabel="passes over the training captions", ylabel="nats per word, validation", xticks=passes)
left.legend(frameon=False, fontsize="small", loc="upper right", bbox_to_anchor=(1, 0.93))
kinds = {
    "true captions": [100 * true[name].mean() for name in decoders],
    "pointing": [looks[name]["pointing-accuracy"] for name in decoders],
    "mass": [looks[name]["attention-mass"] for name in decoders],
}
for number, colour in enumerate(COLOURS[: len(decoders)]):
    bars = right.bar(np.arange(3) + 0.27 * (number - 1), [kind[number] for kind in kinds.values()], 0.25, color=colour)
    right.bar_label(bars, fmt="%.0f", fontsize="small")
right.set(xticks=range(3), xticklabels=kinds, ylabel="%", ylim=(0, 105))
for panel in (left, right):
    panel.spines[["top", "right"]].set_visible(False)
show("results", figure)

# %% [markdown]
# Hold the two panels beside each other, and read the last sentence above. The likelihood is a mean over all words,
# those that follow from grammar included; a sentence is true only if each of its words for what is seen is right. So
# the same step can look small in one and large in the other. Choose what you measure by what you want to know.
#
# Under uniform attention the decoder gets the mean of the map. Which colour belongs to which shape, and where that
# stands, it can know only as far as the network that sees has mixed it into the numbers of the places.
#
# One training a mechanism, as here, does not rank `bahdanau` and `dot`: another seed may turn their order. `make study`
# trains each with several.
#
# ## 5. Pictures of attention
#
# Amber is more than the even weight, dark is less, on one scale for all words and models. The first lines are the
# sentence that the model wrote, and one that is true.


# %%
def draw(title, attention, name):
    """Show where a model looked for each word of its caption."""
    caption = written[attention][name]
    judged = "true" if grammar.is_true(caption.text, things[name]) else "false"
    heading = f"{attention}: {caption.text} ({judged})\n{references[name][0]}"
    show(title, attention_figure(pixels[name], caption.words, caption.attention_by_position, heading))


right_and_wrong = [name for row, name in enumerate(names["test"]) if true["dot"][row] and not true["uniform"][row]]
print(
    f"On {len(right_and_wrong)} of {len(names['test'])} test pictures dot wrote a true sentence and uniform a false "
    f"one; {'the first of them' if right_and_wrong else 'the first test picture'}:"
)
right_and_wrong = right_and_wrong or names["test"]
draw("uniform", "uniform", right_and_wrong[0])
draw("bahdanau", "bahdanau", right_and_wrong[0])
draw("dot", "dot", right_and_wrong[0])

# %% [markdown]
# What to look for:
#
# - `uniform` is grey everywhere, by construction;
# - on the words for an object, is the light on that object? On which of its words does it arrive?
# - on "to the left of", where is it? The decoder has to know both objects by then;
# - a word like "is" needs no look, but the softmax has to put its weight somewhere: do not read meaning into every
#   picture.
#
# A picture of attention shows what went *into* the next word. It does not prove why the word was chosen: the state
# carries what was seen before. So look at a false sentence as well, if there is one:

# %%
wrong = [name for row, name in enumerate(names["test"]) if not true["dot"][row]]
print(f"dot wrote {len(wrong)} false sentences on {len(names['test'])} test pictures{'; the first:' if wrong else '.'}")
if wrong:
    draw("dot-false", "dot", wrong[0])

# %% [markdown]
# ## 6. Questions
#
# Each answer is a sentence made from the numbers of your run.
#
# ### Should the CNN be trained too?
#
# So far the network that sees was fixed. Here its last blocks learn along with the decoder, as with
# `encoder_training: fine_tuned` in `params.yaml`. Both runs continue the trained `dot` on the same pictures, 300 at
# most, for about the same time.


# %%
class Until(keras.callbacks.Callback):
    """Ends training some seconds after the first step, which compiles."""

    def __init__(self, limit):
        super().__init__()
        self.limit, self.steps, self.began = limit, -1, 0.0

    def on_train_batch_end(self, batch, logs=None):
        """Count a step."""
        self.steps += 1
        if self.steps == 0:
            self.began = time.perf_counter()
        elif time.perf_counter() - self.began > self.limit:
            self.model.stop_training = True


def copy_of(decoder):
    """Return a decoder with the same weights."""
    copy = untrained("dot")
    copy.set_weights(decoder.get_weights())
    return copy


def train_for(limit, model, training_batches):
    """Train for some seconds, and return what a step took."""
    until = Until(limit)
    optimizer = keras.optimizers.Adam(1e-4, global_clipnorm=recipe.gradient_norm)
    model.compile(optimizer, TokenCrossEntropy(), metrics=[TokenNegativeLogLikelihood()], jit_compile=False)
    model.fit(training_batches, epochs=10_000, verbose=0, callbacks=[until])
    return (time.perf_counter() - until.began) / max(until.steps, 1), until.steps


def some(of, chosen):
    """Return batches of the chosen pictures."""
    captions = data.captions[data.captions["image"].isin(chosen)]
    return training.batches(of, captions, captions["split"].iloc[0], vocabulary, recipe, SEED)


LIMIT = 12 if PICTURES >= 300 else 1  # seconds
few = names["train"][:300]

fixed = copy_of(decoders["dot"])
training_batches = some(features, few)
step_fixed, steps_fixed = train_for(LIMIT, TeacherForcing(fixed, training_batches.step_widths), training_batches)

tuned = copy_of(decoders["dot"])
encoder = networks.build("efficientnet_lite0")
# batch normalization keeps the statistics of ImageNet: eight pictures are too few for new ones
networks.set_trainable(encoder, "last_blocks", batch_statistics=False)
# to the batches anything is a map that has a row for each picture, pixels too
training_batches = some(Features.at_hand(np.stack([pixels[name] for name in few]), few), few)
end_to_end = EndToEnd(encoder, TeacherForcing(tuned, training_batches.step_widths), batch_statistics=False)
step_tuned, steps_tuned = train_for(LIMIT, end_to_end, training_batches)
seen = encoder.predict(np.stack([pixels[name] for name in names["validation"]]), batch_size=20, verbose=0)
seen = Features.at_hand(seen.reshape(len(seen), features.positions, features.channels), names["validation"])

before = nll_of_decoder(decoders["dot"], batches("validation")).scores()["nll"]
with_fixed = nll_of_decoder(fixed, batches("validation"))
with_tuned = nll_of_decoder(tuned, some(seen, names["validation"]))
found, told = tested(with_tuned, with_fixed, 3, "nats")
ahead = f"the {'trained' if found.value < 0 else 'fixed'} CNN is ahead" if found.p < LEVEL else "neither CNN is ahead"
print(
    f"A step takes {1000 * step_fixed:.0f} ms with the CNN fixed and {1000 * step_tuned:.0f} ms with its last blocks "
    f"trained, {step_tuned / step_fixed:.1f} times as much; after about {LIMIT} s each ({steps_fixed} and "
    f"{steps_tuned} steps) the validation loss went from {before:.3f} to {with_fixed.scores()['nll']:.3f} fixed and "
    f"{with_tuned.scores()['nll']:.3f} trained, a difference of {told}: on these pictures {ahead} for equal time."
)

# %% [markdown]
# A fixed CNN computes its map once for each picture; a trained one computes it at each step, and its gradients as well.
# A step that costs more must teach more.
#
# ### Random or pretrained word vectors?
#
# Vectors such as GloVe, learned on a whole language, are too large to fetch here. The idea works in small: vectors
# learned from our own captions, by counting. Words that stand near each other more often than chance have positive
# pointwise mutual information,
#
# $$\mathrm{PPMI}(a, b) = \max\left(0, \log \frac{n(a, b)\; n}{n(a)\, n(b)}\right)$$
#
# and the singular vectors of that table put words with like neighbours close together.

# %%
counts = np.zeros((len(vocabulary), len(vocabulary)))
for caption in train_captions:
    numbers = vocabulary.encode(caption)
    for distance in (1, 2):
        for one, other in zip(numbers, numbers[distance:], strict=False):
            counts[[one, other], [other, one]] += 1
expected = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0) / counts.sum()
ppmi = np.log(np.maximum(np.divide(counts, expected, out=np.ones_like(counts), where=expected > 0), 1))
left_vectors, strengths, _ = np.linalg.svd(ppmi)
word_vectors = left_vectors * np.sqrt(strengths)  # [V, V]

known = range(len(SPECIAL_TOKENS), len(vocabulary))
length = np.linalg.norm(word_vectors, axis=1, keepdims=True)
likeness = (word_vectors / length) @ (word_vectors / length).T
for word in ("red", "circle", "above"):
    row = likeness[vocabulary.encode(word)[0]]
    nearest = sorted(known, key=lambda number, row=row: -row[number])[1:4]
    print(f"nearest to {word}:", ", ".join(vocabulary.tokens[number] for number in nearest))

# %% [markdown]
# The decoder takes such vectors of any size, as with `model.word_vectors` in `params.yaml`: a learned projection makes
# embeddings of them.

# %%
pretrained = untrained("dot", vectors=word_vectors)
curve = fit(pretrained, passes=2)

tenth = len(curve.first_pass) // 10
figure, panel = plt.subplots(figsize=(6, 3.4), layout="constrained")
for (name, each), colour in zip({"random": curves["dot"], "pretrained": curve}.items(), COLOURS, strict=False):
    style = "-" if name == "random" else "--"
    panel.plot(np.arange(len(each.first_pass)) + 1, each.first_pass, style, color=colour, label=name)
panel.set(xlabel="steps of the first pass", ylabel="nats per word, mean since the first step")
panel.spines[["top", "right"]].set_visible(False)
panel.legend(frameon=False)
show("word-vectors", figure)
early = [each.first_pass[tenth] for each in (curves["dot"], curve)]
first, second = zip(curves["dot"].validation[:2], curve.validation, strict=True)
having = Counter(word for caption in train_captions for word in set(vocabulary.split(caption)))
rarest = min(having, key=having.get)
print(
    f"After a tenth of the first pass the loss is {early[0]:.3f} with random and {early[1]:.3f} with pretrained "
    f"vectors; on validation it is {first[0]:.3f} and {first[1]:.3f} after one pass, {second[0]:.3f} and "
    f"{second[1]:.3f} after two: pretraining changes the loss by {early[1] - early[0]:+.3f} nats early and "
    f"{second[1] - second[0]:+.3f} later. The rarest word, {rarest!r}, stands in {having[rarest]:,} of "
    f"{len(train_captions):,} training captions."
)

# %% [markdown]
# Where a word stands in hundreds of captions, its random vector has much to learn from. Pretrained ones are for words
# that are rare in one's own captions and frequent elsewhere.
#
# ### Teacher forcing or not?
#
# In training the decoder reads true words, in use it reads its own: a mistake can lead where training never was.
# *Scheduled sampling* (Bengio et al. 2015) lets it read its own guesses in training, too. Here in two readings: first
# the true words, to have a guess for each place; then, by the toss of a coin, the guess or the true word.


# %%
class OwnWords(TeacherForcing):
    """Reads, in training, about half of the words as it guesses them itself."""

    def __init__(self, decoder, step_widths):
        super().__init__(decoder, step_widths)
        self.coin = keras.random.SeedGenerator(SEED)
        # captions stand word by word: the guess made at a step is read at the next one, by the captions that continue
        step, caption = step_widths.target_rows
        self.is_first = step == 0
        starts = np.cumsum([0, *step_widths.captions])
        self.guessed_at = np.where(self.is_first, 0, starts[step - 1] + caption)

    def call(self, inputs, training=False):
        """Return logits `[S, V]`."""
        if training:
            guesses = ops.argmax(super().call(inputs), axis=-1)
            own = ops.cast(ops.take(guesses, self.guessed_at), inputs["words"].dtype)
            true_one = self.is_first | (keras.random.uniform(ops.shape(own), seed=self.coin) < 0.5)
            inputs = {**inputs, "words": ops.where(true_one, inputs["words"], own)}
        return super().call(inputs, training)


one_pass = recipe.model_copy(update={"epochs": 1, "learning_rate": 0.0003})
forced = copy_of(decoders["dot"])
fit(forced, recipe=one_pass, passes=1)

free = copy_of(decoders["dot"])
training_batches = batches("train", recipe=one_pass, seed=SEED)
# captions that begin alike are computed together; here each goes its own way from the start
training_batches.step_widths = replace(training_batches.step_widths, shared_steps=0)
model = OwnWords(free, training_batches.step_widths)
optimizer = training.optimizer(one_pass, len(training_batches))
model.compile(optimizer, TokenCrossEntropy(), metrics=[TokenNegativeLogLikelihood()], jit_compile=True)
model.fit(training_batches, verbose=0)

losses = [nll_of_decoder(each, batches("validation")) for each in (forced, free)]
verdict("One more pass under teacher forcing", truth(write(forced)), "with its own words", truth(write(free)))
print(
    f"The loss on true words is {losses[0].scores()['nll']:.3f} under teacher forcing, and "
    f"{losses[1].scores()['nll']:.3f} with its own words, a difference of {tested(losses[1], losses[0], 3, 'nats')[1]}."
)

# %% [markdown]
# Mind what the second model is told: after a wrong word of its own it shall still say what a person said after the
# right one. And a sentence has many wordings ("left of", "to the left of"): a guess can differ from the reference and
# be right, and then the target that follows no longer fits. Mind also that our sentences have at most 13 words: a
# mistake has less room to grow than in long ones.
#
# ### Cell or layer?
#
# Keras offers the LSTM as a *layer*, which runs over a whole sequence, and as a *cell*, one step. The layer wants all
# of its inputs before it starts. With attention there are none: the context of word $t$ depends on the state after word
# $t - 1$. That is why the decoder has its own step. Under uniform attention, though, the context is always the same,
# and the layer has to give what the decoder gives:

# %%
name = names["test"][0]
decoder_inputs = np.array([[START, *vocabulary.encode(references[name][0])]], np.int32)  # [1, T]
grid = features.grid[rows_of(features, [name])]


def step_by_step(decoder):
    """Return logits `[1, T, V]`, computed a word at a time, as when captions are written."""
    picture, state = decoder.initialize(grid)
    logits = []
    for word in decoder_inputs[0]:
        now, state, _ = decoder.next_word(np.array([word]), state, picture)
        logits.append(now)
    return ops.stack(logits, axis=1)


def keras_layer(decoder):
    """Return the same from Keras's LSTM layer with the decoder's weights, its context being that of the first word."""
    picture, state = decoder.initialize(grid)
    context = decoder.attention(picture.feature_vectors, state.output, keys=picture.keys)[0]
    embedded = decoder.embedding(decoder_inputs)
    contexts = ops.repeat(context[:, None], decoder_inputs.shape[1], axis=1)
    recurrent = decoder.recurrent_gates.kernel  # [E + H, 4H]: of the context, then of the state
    lstm = keras.layers.LSTM(sizes.state_size, return_sequences=True)
    lstm.build((None, None, 2 * sizes.embedding_size))
    kernel = ops.concatenate([decoder.word_gates.kernel, recurrent[: sizes.embedding_size]])
    lstm.set_weights([kernel, recurrent[sizes.embedding_size :], decoder.word_gates.bias])
    outputs = lstm(ops.concatenate([embedded, contexts], axis=-1), initial_state=list(state))
    return decoder.logits(decoder.deep_output(outputs, contexts, embedded))


def farthest(one, other):
    """Return the largest difference of two arrays."""
    return float(ops.max(ops.abs(one - other)))


for attention, decoder in decoders.items():
    whole = decoder({"features": grid, "words": decoder_inputs[:, None]})[:, 0]
    apart = {
        "of the cell, word by word,": farthest(step_by_step(decoder), whole),
        "of Keras's LSTM layer, which keeps its first look,": farthest(keras_layer(decoder), whole),
    }
    largest = farthest(whole, 0)
    for which, distance in apart.items():
        print(
            f"{attention}: the logits {which} and those of the whole sentence differ by at most {distance:.0e}, "
            f"{'rounding' if distance < 1e-4 * largest else 'more than rounding'} beside logits of up to {largest:.1f}."
        )

# %% [markdown]
# Stepping and the whole sentence are the same equations with one set of weights, so they should differ by rounding
# alone: captions are written by the first and learned by the second. In the second, the words' part of the gates and
# the vocabulary's logits are one product of matrices for all words together. What that is worth, compiled, for 64
# pictures:


# %%
class Step(keras.Model):
    """One word, compiled."""

    def __init__(self, decoder):
        super().__init__()
        self.decoder = decoder
        self.built = True
        self.compile(jit_compile=True)

    def call(self, inputs):
        """Return logits, new state and weights."""
        words, state, picture = inputs
        return self.decoder.next_word(words, state, picture)


decoder = decoders["dot"]
many = np.repeat(grid, 64, axis=0)
sentences = np.repeat(decoder_inputs[None], 64, axis=0)  # [64, 1, T]
step = Step(decoder)
looked_at, first_state = keras.tree.map_structure(ops.convert_to_numpy, decoder.initialize(many))
decoder.compile(jit_compile=True)


def by_cell():
    """Run 64 captions word by word."""
    state = first_state
    for place in range(decoder_inputs.shape[1]):
        _, state, _ = step.predict_on_batch((sentences[:, 0, place], state, looked_at))


def by_sentence():
    """Run 64 captions whole."""
    decoder.predict_on_batch({"features": many, "words": sentences})


cell_time, sentence_time = seconds(by_cell), seconds(by_sentence)
print(
    f"{decoder_inputs.shape[1]} words of 64 captions take {1000 * cell_time:.0f} ms in single steps and "
    f"{1000 * sentence_time:.0f} ms as whole sentences, a factor of {cell_time / sentence_time:.1f}."
)

# %% [markdown]
# ## 7. Further
#
# - Change one thing, and say beforehand what you expect: `objects=(2, 3)` in section 1; `spatial_encoding="none"` in
#   section 4; another seed.
# - Try the attentions that the package has besides these: `scaled_dot` with `heads` in `sizes`, `gated`, `adaptive`;
#   `docs/scenes.md` says what each was worth there.
# - Write an attention of your own: one class in a module beside those in `src/captioner/model/attention/`;
#   `docs/extending.md` says how.
# - The full scenes, photographs, beam search, intervals and the comparison of runs: `make repro`, then `README.md`.
#   What it took to make scenes that tell attentions apart: `docs/scenes.md`.
