"""Fine-tuning on a user's own photos: classifiers, detectors and segmenters, on the one loop."""
