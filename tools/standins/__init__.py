"""Stand-ins for datasets that can't be shipped: the same files, columns and traps, small drawn images instead."""
