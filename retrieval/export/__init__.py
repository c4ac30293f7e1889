"""A model leaves: safetensors, ONNX, torch.export, each checked before it is called done."""
