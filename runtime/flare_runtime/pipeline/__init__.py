"""From an image to labels: crop, resample, run the network tile by tile, resample back."""
