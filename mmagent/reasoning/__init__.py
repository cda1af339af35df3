"""Chain-of-thought templates: how a model is led to an answer, and how it is read."""
