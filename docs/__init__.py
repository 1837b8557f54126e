"""The documents, and what makes those that are made: `python -m docs` writes them anew."""
