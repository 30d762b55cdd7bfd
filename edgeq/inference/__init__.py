"""onnxruntime on the host: the reference of every check, whole or piece by piece."""
