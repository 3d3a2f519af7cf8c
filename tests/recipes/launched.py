"""What `accelerate launch` runs in tests: one training run on a pickled data set and scale.

launched.py DATA.pickle CONFIG.yaml
"""

import pickle
import sys
from pathlib import Path

from facecrafter.data import shards
from facecrafter.model import zoo
from facecrafter.training import config, loop

prepared, scale = pickle.loads(Path(sys.argv[1]).read_bytes())
shards.load = lambda folder, recogniser: prepared
zoo.SCALES["mini"] = scale
loop.train(config.load(Path(sys.argv[2])), progress=False)
