"""Photos to the person in them, by MediaPipe's segmenter."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from facecrafter import weights
from facecrafter.estimators._mediapipe import end_quietly, quiet_stderr, to_image


class PersonSegmenter:
    """MediaPipe's selfie segmenter: which pixels are a person. Use it as a context manager, or call :meth:`close`.

    Raises:
        WeightsError: its file is missing or another one.
    """

    def __init__(self) -> None:
        with quiet_stderr():
            from mediapipe.tasks.python import BaseOptions, vision

            self._segmenter = vision.ImageSegmenter.create_from_options(
                vision.ImageSegmenterOptions(
                    base_options=BaseOptions(model_asset_path=str(weights.locate("selfie_segmenter"))),
                    output_confidence_masks=True,
                )
            )
            end_quietly(self._segmenter, self)
            # The delegates announce themselves on first use.
            self.mask(np.zeros((64, 64, 3), np.uint8))

    def __enter__(self) -> PersonSegmenter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the segmenter. Closing twice is fine."""
        self._segmenter.close()

    def mask(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The person's share of every pixel: ``(H, W, 3)`` uint8 RGB to ``(H, W)`` float32 in [0, 1]."""
        confidence = self._segmenter.segment(to_image(image)).confidence_masks[0].numpy_view()
        return np.array(confidence, np.float32).reshape(image.shape[:2])
