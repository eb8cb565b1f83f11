"""The nouns and their files. Imports errors only."""
