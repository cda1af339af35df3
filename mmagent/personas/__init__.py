"""Personas: who the assistant is, from our YAML or from the character cards people have."""
