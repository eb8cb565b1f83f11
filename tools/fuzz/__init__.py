"""Tools that give commands damaged, altered and planted files, and look at what they do with them."""
