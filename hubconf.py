"""What `torch.hub` finds here."""

from typing import Any

dependencies = ["torch", "timm", "hydra", "omegaconf", "safetensors", "huggingface_hub", "numpy", "PIL"]


def embedder(path_or_id: str) -> Any:
    """A trained model of a folder, or of `org/name` or `org/name@revision` on the Hugging Face Hub, in evaluation mode.

    torch.hub.load("OWNER/retrieval", "embedder", "org/name")
    """
    from retrieval.embedder import load  # not above: torch.hub first names what is missing of the dependencies

    return load(path_or_id)
