"""A user's own file: its columns, and what is done to them before a network sees them."""
