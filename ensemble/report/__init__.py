"""What people look at: figures as SVG, tables as CSV. Reads values that are handed over; trains and decides nothing."""
