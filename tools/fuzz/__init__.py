"""Tools that give commands damaged, altered, planted and far too large files, and look at what they do with them."""
