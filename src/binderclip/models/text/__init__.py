"""The text side: tokens, templates, prompts, and the bank of encoded texts."""
