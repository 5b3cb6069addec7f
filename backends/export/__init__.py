"""The kernel as a model that runs without Python, one file per format: `backends.export.onnx`."""
