"""What holds the rows of an index: faiss, or where it is not installed NumPy, which knows the Flat index alone."""

try:
    from retrieval import faiss_index
except ModuleNotFoundError:
    from retrieval import flat_index as faiss_index

__all__ = ["faiss_index"]
