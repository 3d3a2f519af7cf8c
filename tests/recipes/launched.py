"""What `accelerate launch` runs in tests: one training run on a pickled data set and scale.

launched.py DATA.pickle CONFIG.yaml
"""

import pickle
import sys
from pathlib import Path

from facecrafter.data import shards
from facecrafter.models import scales
from facecrafter.training import stages, trainer

prepared, scale = pickle.loads(Path(sys.argv[1]).read_bytes())
shards.load = lambda folder, recogniser: prepared
scales.SCALES["mini"] = scale
trainer.train(stages.load(Path(sys.argv[2])), progress=False)
