"""Turn each picture into the feature map of a frozen convolutional network, once."""

import shutil

from stage import find_keras_home, main_checkout, place_of_shards, resumable, run, spent_before

from captioner.common.cluster import on_cluster
from captioner.common.startup import fast_start
from captioner.common.workspace import DATA, FEATURES
from captioner.data import shards as data_shards
from captioner.data import store
from captioner.data.streamed import TrainingCaptions
from captioner.encoders import networks
from captioner.encoders.registry import network_path
from captioner.features import distributed, shards
from captioner.features.extract import Extractor
from captioner.features.store import TRAIN
from captioner.params import Params


def features(params: Params) -> None:
    """Write `data/features/`."""
    find_keras_home()
    with fast_start():
        from captioner.common.keras import keras  # noqa: F401 - here, since Keras asks for its home when it is imported
    encoder, weights = params.features.encoder, params.features.weights
    file = networks.weights_file(encoder, weights, main_checkout())
    own = network_path(encoder, main_checkout())
    streamed = TrainingCaptions(DATA).shards
    captions = store.read_captions(DATA, *(("validation", "test") if streamed else ()))
    images = captions["image"].drop_duplicates().tolist()
    trained = captions["image"][captions["split"] == "train"].drop_duplicates().tolist()
    extractor = Extractor(
        encoder if own is None else str(own),
        weights if file is None else str(file),
        batch_size=params.features.batch_size,
        image_size=None if params.features.image_size == "auto" else params.features.image_size,
        crop=params.features.crop,
        preprocessing=params.features.preprocessing,
    )
    views = params.features.views
    with resumable("features", params) as partial:
        if streamed:
            place = FEATURES.with_name(f".{FEATURES.name}-{TRAIN}") if partial is None else partial / TRAIN
            if partial is None and place.exists():  # of whatever parameters
                shutil.rmtree(place)
            made = shards.extract(extractor, data_shards.find([place_of_shards(params)]), DATA, place)
            pictures = store.read_pictures(DATA, images)
            beside = {f"{TRAIN}/{file.name}": file for file in made}
            spent_before(extractor.extract(pictures, images, FEATURES, partial=partial, beside_grid=beside))
            shutil.rmtree(place)
        elif on_cluster():
            spent_before(distributed.extract(extractor, DATA, images, FEATURES, views, trained, partial))
        else:
            viewed = (store.read_pictures(DATA, trained), trained)
            pictures = store.read_pictures(DATA, images)
            spent_before(extractor.extract(pictures, images, FEATURES, views, viewed, partial))


if __name__ == "__main__":
    run(features)
