"""Dialogues to learn from: read, checked, split and changed. Nothing here trains."""
