"""LangChain agent middleware: memory and persona for any chat model."""
