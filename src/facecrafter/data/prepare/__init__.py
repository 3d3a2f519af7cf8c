"""Photos and videos to a prepared folder: find, align, estimate, and write shards, in parallel and resumable."""

from facecrafter.data.prepare.renew import renew_emotions
from facecrafter.data.prepare.run import Report, prepare

__all__ = ["Report", "prepare", "renew_emotions"]
