"""A network as a value, what it costs, and the same network in torch and ONNX."""
