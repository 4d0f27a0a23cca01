"""Tokenized texts, kept on disk."""
