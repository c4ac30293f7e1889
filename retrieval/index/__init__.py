"""Photos found by a photo: an index of their descriptors, on disk, without torch where the model is an ONNX file."""

from retrieval.index.index import Index

__all__ = ["Index"]
